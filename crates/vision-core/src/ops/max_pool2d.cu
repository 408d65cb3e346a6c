// Maxima of windows. The forward pass keeps the pixel that each maximum came from; the gradient gathers over the
// windows that see a pixel.
#include "kernel.cuh"

#define SIZES_OF_POOL \
    Index height, Index width, Index channels, Index out_height, Index out_width, int kernel_h, int kernel_w, \
        int stride_h, int stride_w, int pad_h, int pad_w, int dilation_h, int dilation_w
#define SIZES \
    height, width, channels, out_height, out_width, kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, \
        dilation_w

template <typename T>
__device__ void max_pool2d(const T* x, T* out, Index* argmax, Index count, SIZES_OF_POOL) {
    FOR_EACH(i, count) {
        Index c = i % channels, rest = i / channels;
        int ox = rest % out_width;
        rest /= out_width;
        int oy = rest % out_height;
        const T* image = x + rest / out_height * height * width * channels + c;
        T best = T(-INFINITY);
        // What no pixel has: a window that only sees padding.
        Index at = 0xffffffffu;
        for (int ky = 0; ky < kernel_h; ++ky) {
            int y = oy * stride_h - pad_h + ky * dilation_h;
            if (y < 0 || y >= int(height)) continue;
            for (int kx = 0; kx < kernel_w; ++kx) {
                int column = ox * stride_w - pad_w + kx * dilation_w;
                if (column < 0 || column >= int(width)) continue;
                Index pixel = y * width + column;
                T value = image[pixel * channels];
                if (value > best || isnan(value) || at == 0xffffffffu) {
                    best = value;
                    at = pixel;
                }
            }
        }
        out[i] = best;
        argmax[i] = at;
    }
}

template <typename T>
__device__ void max_pool2d_gradient(const T* grad, const Index* argmax, T* dx, Index count, SIZES_OF_POOL) {
    FOR_EACH(i, count) {
        Index c = i % channels, rest = i / channels;
        int column = rest % width;
        rest /= width;
        int y = rest % height;
        Index first = rest / height * out_height * out_width, pixel = y * width + column;
        T sum = 0;
        for (int ky = kernel_h - 1; ky >= 0; --ky) {
            int from_y = y + pad_h - ky * dilation_h;
            if (from_y < 0 || from_y % stride_h != 0 || from_y / stride_h >= int(out_height)) continue;
            for (int kx = kernel_w - 1; kx >= 0; --kx) {
                int from_x = column + pad_w - kx * dilation_w;
                if (from_x < 0 || from_x % stride_w != 0 || from_x / stride_w >= int(out_width)) continue;
                Index at = (first + from_y / stride_h * out_width + from_x / stride_w) * channels + c;
                if (argmax[at] == pixel) sum += grad[at];
            }
        }
        dx[i] = sum;
    }
}

EXPORT_FLOATS(max_pool2d, (const T* x, T* out, Index* argmax, Index count, SIZES_OF_POOL), (x, out, argmax, count, SIZES))
EXPORT_FLOATS(max_pool2d_gradient, (const T* grad, const Index* argmax, T* dx, Index count, SIZES_OF_POOL),
              (grad, argmax, dx, count, SIZES))
