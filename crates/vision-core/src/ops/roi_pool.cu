// Maxima over the cells of regions. Tables made on the host give the pixels of each cell; see `RoiPool`.
#include "kernel.cuh"

// `rows` has first and last-but-one row of each row of cells, `(regions * cells_h, 2)`, `columns` likewise.
template <typename T>
__device__ void roi_pool(const T* x, const Index* images, const Index* rows, const Index* columns, T* out, Index* argmax,
                         T lowest, Index count, Index height, Index width, Index channels, Index cells_h, Index cells_w) {
    FOR_EACH(i, count) {
        Index c = i % channels, rest = i / channels;
        Index across = rest % cells_w;
        rest /= cells_w;
        Index region = rest / cells_h;
        const Index* y = rows + 2 * rest;
        const Index* columns_of = columns + 2 * (region * cells_w + across);
        const T* image = x + images[region] * height * width * channels + c;
        bool inside = y[0] < y[1] && columns_of[0] < columns_of[1];
        T best = inside ? lowest : T(0);
        // What no pixel has.
        Index at = 0xffffffffu;
        if (inside)
            for (Index row = y[0]; row < y[1]; ++row)
                for (Index column = columns_of[0]; column < columns_of[1]; ++column) {
                    T value = image[(row * width + column) * channels];
                    if (value > best) {
                        best = value;
                        at = row * width + column;
                    }
                }
        out[i] = best;
        argmax[i] = at;
    }
}

// A thread gathers one element of the map's gradient, with the tables of `regions_gradient`.
template <typename T>
__device__ void roi_pool_gradient(const T* grad, const Index* argmax, const Index* line_start, const Index* line,
                                  const Index* column_start, const Index* column, T* dx, Index count, Index height,
                                  Index width, Index channels, Index cells_h, Index cells_w) {
    FOR_EACH(i, count) {
        Index c = i % channels, rest = i / channels;
        Index x = rest % width;
        rest /= width;
        Index pixel = rest % height * width + x;
        T sum = 0;
        for (Index l = line_start[rest]; l < line_start[rest + 1]; ++l) {
            Index of_column = line[l] / cells_h * width + x;
            for (Index k = column_start[of_column]; k < column_start[of_column + 1]; ++k) {
                Index at = (line[l] * cells_w + column[k]) * channels + c;
                if (argmax[at] == pixel) sum += grad[at];
            }
        }
        dx[i] = sum;
    }
}

EXPORT_FLOATS(roi_pool,
              (const T* x, const Index* images, const Index* rows, const Index* columns, T* out, Index* argmax, T lowest,
               Index count, Index height, Index width, Index channels, Index cells_h, Index cells_w),
              (x, images, rows, columns, out, argmax, lowest, count, height, width, channels, cells_h, cells_w))
EXPORT_FLOATS(roi_pool_gradient,
              (const T* grad, const Index* argmax, const Index* line_start, const Index* line, const Index* column_start,
               const Index* column, T* dx, Index count, Index height, Index width, Index channels, Index cells_h,
               Index cells_w),
              (grad, argmax, line_start, line, column_start, column, dx, count, height, width, channels, cells_h, cells_w))
