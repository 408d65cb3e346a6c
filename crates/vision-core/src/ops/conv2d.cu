// Convolution as a product of matrices: rows are windows, `(kh, kw, C)` each, with zeros outside the map. Grouped
// convolutions are summed directly.
#include "kernel.cuh"

// Sizes by value; `Geometry` of the launching side writes them in this order.
#define GEOMETRY \
    Index batch, Index height, Index width, Index channels, Index out_height, Index out_width, Index out_channels, \
        Index kernel_h, Index kernel_w, Index groups, Index stride_h, Index stride_w, int pad_h, int pad_w, \
        Index dilation_h, Index dilation_w
#define SIZES \
    batch, height, width, channels, out_height, out_width, out_channels, kernel_h, kernel_w, groups, stride_h, \
        stride_w, pad_h, pad_w, dilation_h, dilation_w

// `(O, C, kh, kw)` to `(O, kh, kw, C)`.
template <typename T>
__device__ void conv2d_pack(const T* weight, T* packed, Index channels, Index taps, Index count) {
    FOR_EACH(i, count) {
        Index c = i % channels, rest = i / channels;
        packed[i] = weight[(rest / taps * channels + c) * taps + rest % taps];
    }
}

// `(O, kh, kw, C)` to `(O, C, kh, kw)`.
template <typename T>
__device__ void conv2d_unpack(const T* packed, T* weight, Index channels, Index taps, Index count) {
    FOR_EACH(i, count) {
        Index tap = i % taps, rest = i / taps;
        weight[i] = packed[(rest / channels * taps + tap) * channels + rest % channels];
    }
}

// Windows of `count / (kh kw C)` target pixels from `first` on, counted over the batch.
template <typename T>
__device__ void conv2d_windows(const T* input, T* windows, Index first, Index count, GEOMETRY) {
    FOR_EACH(i, count) {
        Index c = i % channels, rest = i / channels;
        Index kx = rest % kernel_w;
        rest /= kernel_w;
        Index ky = rest % kernel_h, pixel = rest / kernel_h + first;
        Index ox = pixel % out_width;
        pixel /= out_width;
        Index oy = pixel % out_height, n = pixel / out_height;
        int y = int(oy * stride_h + ky * dilation_h) - pad_h, x = int(ox * stride_w + kx * dilation_w) - pad_w;
        bool inside = y >= 0 && x >= 0 && y < int(height) && x < int(width);
        windows[i] = inside ? input[((n * height + y) * width + x) * channels + c] : T(0);
    }
}

// The gradient of the map from that of the windows of whole pictures: each pixel adds up where it was read.
// `count` pixels and channels of as many pictures as the windows are of.
template <typename T>
__device__ void conv2d_windows_gradient(const T* windows, const T* bias, T* input, Index count, GEOMETRY) {
    FOR_EACH(i, count) {
        Index c = i % channels, rest = i / channels;
        Index x = rest % width;
        rest /= width;
        Index y = rest % height, n = rest / height;
        T sum = bias ? bias[c] : T(0);
        for (Index ky = 0; ky < kernel_h; ++ky) {
            int from_y = int(y) + pad_h - int(ky * dilation_h);
            if (from_y < 0 || from_y % int(stride_h) != 0) continue;
            Index oy = from_y / stride_h;
            if (oy >= out_height) continue;
            for (Index kx = 0; kx < kernel_w; ++kx) {
                int from_x = int(x) + pad_w - int(kx * dilation_w);
                if (from_x < 0 || from_x % int(stride_w) != 0) continue;
                Index ox = from_x / stride_w;
                if (ox >= out_width) continue;
                Index pixel = (n * out_height + oy) * out_width + ox;
                sum += windows[((pixel * kernel_h + ky) * kernel_w + kx) * channels + c];
            }
        }
        input[i] = sum;
    }
}

// What follows a convolution: `x * scale + shift + residual`, and ReLU. Every part may be missing.
template <typename T>
__device__ void conv2d_after(T* out, const T* scale, const T* shift, const T* residual, Index relu, Index channels,
                             Index count) {
    FOR_EACH(i, count) {
        Index c = i % channels;
        T x = out[i];
        if (scale) x *= scale[c];
        if (shift) x += shift[c];
        if (residual) x += residual[i];
        out[i] = relu && x <= T(0) ? T(0) : x;
    }
}

// Grouped convolution, weights packed `(O, kh, kw, C / groups)`: a thread sums one result.
template <typename T>
__device__ void conv2d_grouped(const T* input, const T* packed, T* out, Index count, GEOMETRY) {
    Index width_in = channels / groups, width_out = out_channels / groups;
    FOR_EACH(i, count) {
        Index o = i % out_channels, rest = i / out_channels;
        Index ox = rest % out_width;
        rest /= out_width;
        Index oy = rest % out_height, n = rest / out_height;
        Index first = o / width_out * width_in;
        T sum = 0;
        for (Index ky = 0; ky < kernel_h; ++ky) {
            int y = int(oy * stride_h + ky * dilation_h) - pad_h;
            if (y < 0 || y >= int(height)) continue;
            for (Index kx = 0; kx < kernel_w; ++kx) {
                int x = int(ox * stride_w + kx * dilation_w) - pad_w;
                if (x < 0 || x >= int(width)) continue;
                const T* pixel = input + ((n * height + y) * width + x) * channels + first;
                const T* weight = packed + ((o * kernel_h + ky) * kernel_w + kx) * width_in;
                for (Index c = 0; c < width_in; ++c) sum += pixel[c] * weight[c];
            }
        }
        out[i] = sum;
    }
}

// The gradient of the map of a grouped convolution: a thread gathers one element.
template <typename T>
__device__ void conv2d_grouped_data(const T* grad, const T* packed, const T* bias, T* input, Index count, GEOMETRY) {
    Index width_in = channels / groups, width_out = out_channels / groups;
    FOR_EACH(i, count) {
        Index c = i % channels, rest = i / channels;
        Index x = rest % width;
        rest /= width;
        Index y = rest % height, n = rest / height;
        Index group = c / width_in;
        T sum = bias ? bias[c] : T(0);
        for (Index ky = 0; ky < kernel_h; ++ky) {
            int from_y = int(y) + pad_h - int(ky * dilation_h);
            if (from_y < 0 || from_y % int(stride_h) != 0) continue;
            Index oy = from_y / stride_h;
            if (oy >= out_height) continue;
            for (Index kx = 0; kx < kernel_w; ++kx) {
                int from_x = int(x) + pad_w - int(kx * dilation_w);
                if (from_x < 0 || from_x % int(stride_w) != 0) continue;
                Index ox = from_x / stride_w;
                if (ox >= out_width) continue;
                const T* from = grad + ((n * out_height + oy) * out_width + ox) * out_channels + group * width_out;
                const T* weight = packed + ((group * width_out * kernel_h + ky) * kernel_w + kx) * width_in + c % width_in;
                for (Index o = 0; o < width_out; ++o) sum += from[o] * weight[o * kernel_h * kernel_w * width_in];
            }
        }
        input[i] = sum;
    }
}

// The gradient of the weights of a grouped convolution, in the order they are stored in: a block sums one over all
// pixels.
template <typename T>
__device__ void conv2d_grouped_weight(const T* input, const T* grad, T* weight, GEOMETRY) {
    __shared__ T shared[THREADS];
    Index width_in = channels / groups, width_out = out_channels / groups;
    Index kx = blockIdx.x % kernel_w, rest = blockIdx.x / kernel_w;
    Index ky = rest % kernel_h;
    rest /= kernel_h;
    Index o = rest / width_in, c = o / width_out * width_in + rest % width_in;
    T sum = 0;
    FOR_EACH_IN_BLOCK(pixel, batch * out_height * out_width) {
        Index ox = pixel % out_width, row = pixel / out_width;
        Index oy = row % out_height, n = row / out_height;
        int y = int(oy * stride_h + ky * dilation_h) - pad_h, x = int(ox * stride_w + kx * dilation_w) - pad_w;
        if (y < 0 || x < 0 || y >= int(height) || x >= int(width)) continue;
        sum += grad[pixel * out_channels + o] * input[((n * height + y) * width + x) * channels + c];
    }
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) weight[blockIdx.x] = sum;
}

EXPORT_FLOATS(conv2d_pack, (const T* weight, T* packed, Index channels, Index taps, Index count),
              (weight, packed, channels, taps, count))
EXPORT_FLOATS(conv2d_unpack, (const T* packed, T* weight, Index channels, Index taps, Index count),
              (packed, weight, channels, taps, count))
EXPORT_FLOATS(conv2d_windows, (const T* input, T* windows, Index first, Index count, GEOMETRY),
              (input, windows, first, count, SIZES))
EXPORT_FLOATS(conv2d_windows_gradient, (const T* windows, const T* bias, T* input, Index count, GEOMETRY),
              (windows, bias, input, count, SIZES))
EXPORT_FLOATS(conv2d_after,
              (T* out, const T* scale, const T* shift, const T* residual, Index relu, Index channels, Index count),
              (out, scale, shift, residual, relu, channels, count))
EXPORT_FLOATS(conv2d_grouped, (const T* input, const T* packed, T* out, Index count, GEOMETRY),
              (input, packed, out, count, SIZES))
EXPORT_FLOATS(conv2d_grouped_data, (const T* grad, const T* packed, const T* bias, T* input, Index count, GEOMETRY),
              (grad, packed, bias, input, count, SIZES))
EXPORT_FLOATS(conv2d_grouped_weight, (const T* input, const T* grad, T* weight, GEOMETRY), (input, grad, weight, SIZES))
