// Mean over windows, and its gradient.
#include "kernel.cuh"

// `pixels` has the range of input pixels for each row of windows, then for each column; the product of the two
// `counts` of a window is what its sum is divided by.
template <typename T>
__device__ void avg_pool2d(const T* x, const Index* pixels, const double* counts, T* y, Index height, Index width,
                           Index channels, Index out_height, Index out_width, Index count) {
    FOR_EACH(i, count) {
        Index c = i % channels, rest = i / channels;
        Index ox = rest % out_width;
        rest /= out_width;
        Index oy = rest % out_height;
        const T* image = x + rest / out_height * height * width * channels + c;
        const Index *rows = pixels + 2 * oy, *columns = pixels + 2 * (out_height + ox);
        T sum = 0;
        for (Index row = rows[0]; row < rows[1]; ++row)
            for (Index column = columns[0]; column < columns[1]; ++column)
                sum += image[(row * width + column) * channels];
        y[i] = sum / T(counts[oy] * counts[out_height + ox]);
    }
}

// `windows` has for each row and then for each column of pixels the range of windows that it lies in.
template <typename T>
__device__ void avg_pool2d_gradient(const T* dy, const Index* windows, const double* counts, T* dx, Index height,
                                    Index width, Index channels, Index out_height, Index out_width, Index count) {
    FOR_EACH(i, count) {
        Index c = i % channels, rest = i / channels;
        const Index* columns = windows + 2 * (height + rest % width);
        rest /= width;
        const Index* rows = windows + 2 * (rest % height);
        const T* grad = dy + rest / height * out_height * out_width * channels + c;
        T sum = 0;
        for (Index oy = rows[0]; oy < rows[1]; ++oy)
            for (Index ox = columns[0]; ox < columns[1]; ++ox) {
                T share = T(1) / T(counts[oy] * counts[out_height + ox]);
                sum += grad[(oy * out_width + ox) * channels] * share;
            }
        dx[i] = sum;
    }
}

EXPORT_FLOATS(avg_pool2d,
              (const T* x, const Index* pixels, const double* counts, T* y, Index height, Index width, Index channels,
               Index out_height, Index out_width, Index count),
              (x, pixels, counts, y, height, width, channels, out_height, out_width, count))
EXPORT_FLOATS(avg_pool2d_gradient,
              (const T* dy, const Index* windows, const double* counts, T* dx, Index height, Index width,
               Index channels, Index out_height, Index out_width, Index count),
              (dy, windows, counts, dx, height, width, channels, out_height, out_width, count))
