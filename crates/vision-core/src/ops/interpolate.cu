// Maps mixed from other maps by a table of source pixels and weights for each axis.
#include "kernel.cuh"

// The taps of target row `r` are `row_starts[r] .. row_starts[r + 1]` of `row_sources` and `row_weights`, and those of
// columns alike. Each result mixes rows first, then columns.
template <typename T>
__device__ void interpolate(const T* x, const Index* row_starts, const Index* row_sources, const T* row_weights,
                            const Index* column_starts, const Index* column_sources, const T* column_weights, T* y,
                            Index height, Index width, Index channels, Index out_height, Index out_width,
                            Index count) {
    FOR_EACH(i, count) {
        Index c = i % channels, rest = i / channels;
        Index ox = rest % out_width;
        rest /= out_width;
        Index oy = rest % out_height;
        const T* image = x + rest / out_height * height * width * channels + c;
        Index first = row_starts[oy], end = row_starts[oy + 1];
        T sum = 0;
        if (first < end) {
            for (Index column = column_starts[ox]; column < column_starts[ox + 1]; ++column) {
                const T* source = image + column_sources[column] * channels;
                T line = 0;
                for (Index row = first; row < end; ++row)
                    line += source[row_sources[row] * width * channels] * row_weights[row];
                sum += line * column_weights[column];
            }
        }
        y[i] = sum;
    }
}

EXPORT_FLOATS(interpolate,
              (const T* x, const Index* row_starts, const Index* row_sources, const T* row_weights,
               const Index* column_starts, const Index* column_sources, const T* column_weights, T* y, Index height,
               Index width, Index channels, Index out_height, Index out_width, Index count),
              (x, row_starts, row_sources, row_weights, column_starts, column_sources, column_weights, y, height,
               width, channels, out_height, out_width, count))
