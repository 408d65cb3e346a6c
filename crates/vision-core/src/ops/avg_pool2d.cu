// Means of windows, and their gradient as a sum over the windows that see a pixel.
#include "kernel.cuh"

#define SIZES_OF_POOL \
    int height, int width, Index channels, int out_height, int out_width, int kernel_h, int kernel_w, int stride_h, \
        int stride_w, int pad_h, int pad_w, Index include_padding, Index divisor
#define SIZES \
    height, width, channels, out_height, out_width, kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, \
        include_padding, divisor

struct Span {
    int start, end;  // pixels inside the map
    int count;       // pixels that the sum is divided by
};

// The window `index` along one axis.
__device__ __forceinline__ Span window(int index, int size, int kernel, int stride, int pad, Index include_padding) {
    int start = index * stride - pad, end = min(start + kernel, size + pad);
    int count = end - start;
    start = max(start, 0);
    end = max(min(end, size), start);
    return {start, end, include_padding ? count : end - start};
}

template <typename T>
__device__ void avg_pool2d(const T* x, T* out, Index count, SIZES_OF_POOL) {
    FOR_EACH(i, count) {
        Index c = i % channels, rest = i / channels;
        int ox = rest % out_width;
        rest /= out_width;
        Span rows = window(rest % out_height, height, kernel_h, stride_h, pad_h, include_padding);
        Span columns = window(ox, width, kernel_w, stride_w, pad_w, include_padding);
        const T* image = x + rest / out_height * height * width * channels + c;
        T sum = 0;
        for (int y = rows.start; y < rows.end; ++y)
            for (int column = columns.start; column < columns.end; ++column) sum += image[(y * width + column) * channels];
        out[i] = sum / T(divisor ? int(divisor) : rows.count * columns.count);
    }
}

template <typename T>
__device__ void avg_pool2d_gradient(const T* grad, T* dx, Index count, SIZES_OF_POOL) {
    FOR_EACH(i, count) {
        Index c = i % channels, rest = i / channels;
        int column = rest % width + pad_w;
        rest /= width;
        int y = rest % height + pad_h;
        const T* from = grad + rest / height * out_height * out_width * channels + c;
        int first_y = max(y - kernel_h + stride_h, 0) / stride_h, first_x = max(column - kernel_w + stride_w, 0) / stride_w;
        T sum = 0;
        for (int oy = first_y; oy <= min(y / stride_h, out_height - 1); ++oy) {
            Span rows = window(oy, height, kernel_h, stride_h, pad_h, include_padding);
            for (int ox = first_x; ox <= min(column / stride_w, out_width - 1); ++ox) {
                Span columns = window(ox, width, kernel_w, stride_w, pad_w, include_padding);
                sum += from[(oy * out_width + ox) * channels] / T(divisor ? int(divisor) : rows.count * columns.count);
            }
        }
        dx[i] = sum;
    }
}

EXPORT_FLOATS(avg_pool2d, (const T* x, T* out, Index count, SIZES_OF_POOL), (x, out, count, SIZES))
EXPORT_FLOATS(avg_pool2d_gradient, (const T* grad, T* dx, Index count, SIZES_OF_POOL), (grad, dx, count, SIZES))
