// Boxes as offsets from anchors, and back: a thread for each box. Products are rounded before they are added to, as on
// the host.
#include "kernel.cuh"

#define CODER T wx, T wy, T ww, T wh, T margin

template <typename T>
struct Place {
    T cx, cy, w, h;

    __device__ Place(const T* box, T margin) {
        w = box[2] - box[0] + margin;
        h = box[3] - box[1] + margin;
        cx = box[0] + rounded_product(T(0.5), w - margin);
        cy = box[1] + rounded_product(T(0.5), h - margin);
    }
};

template <typename T>
__device__ void box_encode(const T* boxes, const T* anchors, T* out, Index count, CODER) {
    FOR_EACH(i, count) {
        Place<T> box(boxes + i * 4, margin), anchor(anchors + i * 4, margin);
        T* to = out + i * 4;
        to[0] = wx * (box.cx - anchor.cx) / anchor.w;
        to[1] = wy * (box.cy - anchor.cy) / anchor.h;
        to[2] = ww * T(log(double(box.w / anchor.w)));
        to[3] = wh * T(log(double(box.h / anchor.h)));
    }
}

// `per_anchor` boxes for each anchor. The logarithm of a size ratio is at most `clip`; NaN stays.
template <typename T>
__device__ void box_decode(const T* deltas, const T* anchors, T* out, Index count, Index per_anchor, T clip, CODER) {
    FOR_EACH(i, count) {
        Place<T> anchor(anchors + i / per_anchor * 4, margin);
        const T* d = deltas + i * 4;
        T cx = rounded_product(d[0] / wx, anchor.w) + anchor.cx, cy = rounded_product(d[1] / wy, anchor.h) + anchor.cy;
        T w = d[2] / ww, h = d[3] / wh;
        w = T(0.5) * (rounded_product(exp(w > clip ? clip : w), anchor.w) - margin);
        h = T(0.5) * (rounded_product(exp(h > clip ? clip : h), anchor.h) - margin);
        T* to = out + i * 4;
        to[0] = cx - w;
        to[1] = cy - h;
        to[2] = cx + w;
        to[3] = cy + h;
    }
}

// As PyTorch's `clamp`: nothing passes at the limit itself.
template <typename T>
__device__ __forceinline__ T of_size(T log, T clip, T size, T g) { return log < clip ? T(0.5) * exp(log) * size * g : T(0); }

template <typename T>
__device__ void box_decode_gradient(const T* deltas, const T* anchors, const T* grad, T* out, Index count,
                                    Index per_anchor, T clip, CODER) {
    FOR_EACH(i, count) {
        Place<T> anchor(anchors + i / per_anchor * 4, margin);
        const T *d = deltas + i * 4, *g = grad + i * 4;
        T* to = out + i * 4;
        to[0] = (g[0] + g[2]) * anchor.w / wx;
        to[1] = (g[1] + g[3]) * anchor.h / wy;
        to[2] = of_size(d[2] / ww, clip, anchor.w, g[2] - g[0]) / ww;
        to[3] = of_size(d[3] / wh, clip, anchor.h, g[3] - g[1]) / wh;
    }
}

EXPORT_FLOATS(box_encode, (const T* boxes, const T* anchors, T* out, Index count, CODER),
              (boxes, anchors, out, count, wx, wy, ww, wh, margin))
EXPORT_FLOATS(box_decode,
              (const T* deltas, const T* anchors, T* out, Index count, Index per_anchor, T clip, CODER),
              (deltas, anchors, out, count, per_anchor, clip, wx, wy, ww, wh, margin))
EXPORT_FLOATS(box_decode_gradient,
              (const T* deltas, const T* anchors, const T* grad, T* out, Index count, Index per_anchor, T clip, CODER),
              (deltas, anchors, grad, out, count, per_anchor, clip, wx, wy, ww, wh, margin))
