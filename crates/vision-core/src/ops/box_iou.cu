// IoU and generalised IoU of all pairs of boxes, and their gradient: a block sums that of one box over its pairs.
#include "kernel.cuh"

// A comparison with NaN gives NaN, as on the host.
template <typename T>
__device__ __forceinline__ T larger(T a, T b) { return a > b || isnan(a) ? a : b; }
template <typename T>
__device__ __forceinline__ T smaller(T a, T b) { return a < b || isnan(a) ? a : b; }
template <typename T>
__device__ __forceinline__ T side(T x) { return x < T(0) ? T(0) : x; }
template <typename T>
__device__ __forceinline__ T area(const T* box) { return (box[2] - box[0]) * (box[3] - box[1]); }

template <typename T>
__device__ void box_iou(const T* boxes1, const T* boxes2, T* out, Index generalized, Index columns, Index count) {
    FOR_EACH(i, count) {
        const T *a = boxes1 + i / columns * 4, *b = boxes2 + i % columns * 4;
        T w = side(smaller(a[2], b[2]) - larger(a[0], b[0])), h = side(smaller(a[3], b[3]) - larger(a[1], b[1]));
        T intersection = w * h, both = area(a) + area(b) - intersection, iou = intersection / both;
        if (generalized) {
            w = side(larger(a[2], b[2]) - smaller(a[0], b[0]));
            h = side(larger(a[3], b[3]) - smaller(a[1], b[1]));
            T around = w * h;
            iou -= (around - both) / around;
        }
        out[i] = iou;
    }
}

// What of the gradient `g` of the larger (smaller) of two numbers is that of `own`: all, none, or half if they are equal.
template <typename T>
__device__ __forceinline__ T of_larger(T own, T other, T g) { return own < other ? T(0) : own == other ? g * T(0.5) : g; }
template <typename T>
__device__ __forceinline__ T of_smaller(T own, T other, T g) { return own > other ? T(0) : own == other ? g * T(0.5) : g; }

// Adds the gradient of box `a` of a pair to `d`.
template <typename T>
__device__ void add_gradient(const T* a, const T* b, T g, Index generalized, T* d) {
    T raw_w = smaller(a[2], b[2]) - larger(a[0], b[0]), raw_h = smaller(a[3], b[3]) - larger(a[1], b[1]);
    T w = side(raw_w), h = side(raw_h), intersection = w * h, both = area(a) + area(b) - intersection;
    T d_both = -g * (intersection / both / both);
    if (generalized) {
        T wide = larger(a[2], b[2]) - smaller(a[0], b[0]), high = larger(a[3], b[3]) - smaller(a[1], b[1]);
        T around = side(wide) * side(high);
        T d_around = g * ((around - both) / around / around) - g / around;
        d_both += g / around;
        T dx = wide > T(0) ? d_around * side(high) : T(0), dy = high > T(0) ? d_around * side(wide) : T(0);
        d[0] -= of_smaller(a[0], b[0], dx);
        d[1] -= of_smaller(a[1], b[1], dy);
        d[2] += of_larger(a[2], b[2], dx);
        d[3] += of_larger(a[3], b[3], dy);
    }
    T d_intersection = g / both - d_both;
    T dx = raw_w > T(0) ? d_intersection * h : T(0), dy = raw_h > T(0) ? d_intersection * w : T(0);
    d[0] -= of_larger(a[0], b[0], dx);
    d[1] -= of_larger(a[1], b[1], dy);
    d[2] += of_smaller(a[2], b[2], dx);
    d[3] += of_smaller(a[3], b[3], dy);
    T dw = d_both * (a[3] - a[1]), dh = d_both * (a[2] - a[0]);
    d[0] -= dw;
    d[1] -= dh;
    d[2] += dw;
    d[3] += dh;
}

// The gradient of `boxes`, one for each block, over `others`. The gradient of a pair lies at
// `own * own_step + other * other_step`.
template <typename T>
__device__ void box_iou_gradient(const T* boxes, const T* others, const T* grad, T* out, Index generalized, Index count,
                                 Index own_step, Index other_step) {
    __shared__ T shared[THREADS];
    Index own = blockIdx.x;
    T d[4] = {0, 0, 0, 0};
    FOR_EACH_IN_BLOCK(other, count)
        add_gradient(boxes + own * 4, others + other * 4, grad[own * own_step + other * other_step], generalized, d);
    for (int k = 0; k < 4; ++k) {
        T sum = block_sum(d[k], shared);
        if (threadIdx.x == 0) out[own * 4 + k] = sum;
    }
}

EXPORT_FLOATS(box_iou, (const T* boxes1, const T* boxes2, T* out, Index generalized, Index columns, Index count),
              (boxes1, boxes2, out, generalized, columns, count))
EXPORT_FLOATS(box_iou_gradient,
              (const T* boxes, const T* others, const T* grad, T* out, Index generalized, Index count, Index own_step,
               Index other_step),
              (boxes, others, grad, out, generalized, count, own_step, other_step))
