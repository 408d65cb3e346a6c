// Means of the bins of a map, and their gradient as a sum over the bins of a pixel.
#include "bins.cuh"

template <typename T>
__device__ void adaptive_avg_pool2d(const T* x, T* out, Index count, Index height, Index width, Index channels,
                                    Index out_height, Index out_width) {
    FOR_EACH(i, count) {
        Place bin = place_of(i, out_height, out_width, channels);
        const T* image = x + bin.image * height * width * channels + bin.channel;
        Index y0 = bin_start(bin.y, height, out_height), y1 = bin_end(bin.y, height, out_height);
        Index x0 = bin_start(bin.x, width, out_width), x1 = bin_end(bin.x, width, out_width);
        double sum = 0;
        for (Index y = y0; y < y1; ++y)
            for (Index column = x0; column < x1; ++column) sum += image[(y * width + column) * channels];
        out[i] = T(sum / double((y1 - y0) * (x1 - x0)));
    }
}

template <typename T>
__device__ void adaptive_avg_pool2d_gradient(const T* grad, T* dx, Index count, Index height, Index width,
                                             Index channels, Index out_height, Index out_width) {
    FOR_EACH(i, count) {
        auto [c, column, y, image] = place_of(i, height, width, channels);
        const T* from = grad + image * out_height * out_width * channels + c;
        T sum = 0;
        for (Index oy = y * out_height / height; oy < out_height && bin_start(oy, height, out_height) <= y; ++oy) {
            Index rows = bin_end(oy, height, out_height) - bin_start(oy, height, out_height);
            for (Index ox = column * out_width / width; ox < out_width && bin_start(ox, width, out_width) <= column; ++ox) {
                Index columns = bin_end(ox, width, out_width) - bin_start(ox, width, out_width);
                sum += from[(oy * out_width + ox) * channels] * T(1.0 / double(rows * columns));
            }
        }
        dx[i] = sum;
    }
}

EXPORT_FLOATS(adaptive_avg_pool2d,
              (const T* x, T* out, Index count, Index height, Index width, Index channels, Index out_height, Index out_width),
              (x, out, count, height, width, channels, out_height, out_width))
EXPORT_FLOATS(adaptive_avg_pool2d_gradient,
              (const T* grad, T* dx, Index count, Index height, Index width, Index channels, Index out_height,
               Index out_width),
              (grad, dx, count, height, width, channels, out_height, out_width))
