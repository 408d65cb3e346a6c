// Maxima of the bins of a map. The forward pass keeps the pixel that each maximum came from; the gradient gathers over
// the bins of a pixel.
#include "bins.cuh"

template <typename T>
__device__ void adaptive_max_pool2d(const T* x, T* out, Index* argmax, Index count, Index height, Index width,
                                    Index channels, Index out_height, Index out_width) {
    FOR_EACH(i, count) {
        Place bin = place_of(i, out_height, out_width, channels);
        const T* image = x + bin.image * height * width * channels + bin.channel;
        Index y0 = bin_start(bin.y, height, out_height), y1 = bin_end(bin.y, height, out_height);
        Index x0 = bin_start(bin.x, width, out_width), x1 = bin_end(bin.x, width, out_width);
        Index at = y0 * width + x0;
        T best = image[at * channels];
        for (Index y = y0; y < y1; ++y) {
            for (Index column = x0; column < x1; ++column) {
                Index pixel = y * width + column;
                T value = image[pixel * channels];
                if (value > best || isnan(value)) {
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
__device__ void adaptive_max_pool2d_gradient(const T* grad, const Index* argmax, T* dx, Index count, Index height,
                                             Index width, Index channels, Index out_height, Index out_width) {
    FOR_EACH(i, count) {
        auto [c, column, y, image] = place_of(i, height, width, channels);
        Index pixel = y * width + column, first = image * out_height * out_width;
        T sum = 0;
        for (Index oy = y * out_height / height; oy < out_height && bin_start(oy, height, out_height) <= y; ++oy) {
            for (Index ox = column * out_width / width; ox < out_width && bin_start(ox, width, out_width) <= column; ++ox) {
                Index at = (first + oy * out_width + ox) * channels + c;
                if (argmax[at] == pixel) sum += grad[at];
            }
        }
        dx[i] = sum;
    }
}

EXPORT_FLOATS(adaptive_max_pool2d,
              (const T* x, T* out, Index* argmax, Index count, Index height, Index width, Index channels,
               Index out_height, Index out_width),
              (x, out, argmax, count, height, width, channels, out_height, out_width))
EXPORT_FLOATS(adaptive_max_pool2d_gradient,
              (const T* grad, const Index* argmax, T* dx, Index count, Index height, Index width, Index channels,
               Index out_height, Index out_width),
              (grad, argmax, dx, count, height, width, channels, out_height, out_width))
