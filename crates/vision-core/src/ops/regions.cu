// Weighted sums over the cells of regions. Tables made on the host say which pixels of each axis a cell reads; see
// `WeightedSum`. Channel `c * groups + group` of the map is channel `c` of a group.
#include "kernel.cuh"

#define SIZES_OF_REGIONS \
    Index height, Index width, Index channels, Index cells_h, Index cells_w, Index groups_h, Index groups_w
#define SIZES height, width, channels, cells_h, cells_w, groups_h, groups_w

// Taps of cell `k` of an axis are `start[k] .. start[k + 1]` of `pixel` and `factor`.
template <typename T>
__device__ void regions(const T* x, const Index* images, const Index* row_start, const Index* row, const T* row_factor,
                        const Index* column_start, const Index* column, const T* column_factor, T* out, T fill,
                        Index count, SIZES_OF_REGIONS) {
    Index groups = groups_h * groups_w, depth = channels / groups;
    FOR_EACH(i, count) {
        Index c = i % depth, rest = i / depth;
        Index across = rest % cells_w;
        rest /= cells_w;
        Index down = rest % cells_h, region = rest / cells_h;
        Index group = down * groups_h / cells_h * groups_w + across * groups_w / cells_w;
        const T* image = x + images[region] * height * width * channels + c * groups + group;
        Index rows = region * cells_h + down, columns = region * cells_w + across;
        Index r0 = row_start[rows], r1 = row_start[rows + 1], c0 = column_start[columns], c1 = column_start[columns + 1];
        if (r0 == r1 || c0 == c1) {
            out[i] = fill;
            continue;
        }
        T sum = 0;
        for (Index r = r0; r < r1; ++r) {
            const T* line = image + row[r] * width * channels;
            T along = 0;
            for (Index k = c0; k < c1; ++k) along += line[column[k] * channels] * column_factor[k];
            sum += along * row_factor[r];
        }
        out[i] = sum;
    }
}

// The gradient of the map: a thread gathers one element. Tables the other way round: entries of line `n * height + y` of
// the maps name a row of cells, `region * cells_h + down`; those of `region * width + x` a column of cells.
template <typename T>
__device__ void regions_gradient(const T* grad, const Index* line_start, const Index* line, const T* line_factor,
                                 const Index* column_start, const Index* column, const T* column_factor, T* dx,
                                 Index count, SIZES_OF_REGIONS) {
    Index groups = groups_h * groups_w, depth = channels / groups;
    FOR_EACH(i, count) {
        Index channel = i % channels, rest = i / channels;
        Index x = rest % width;
        rest /= width;
        Index c = channel / groups, group = channel % groups;
        T sum = 0;
        for (Index l = line_start[rest]; l < line_start[rest + 1]; ++l) {
            Index region = line[l] / cells_h, down = line[l] % cells_h;
            Index at = region * width + x;
            for (Index k = column_start[at]; k < column_start[at + 1]; ++k) {
                Index across = column[k];
                if (down * groups_h / cells_h * groups_w + across * groups_w / cells_w != group) continue;
                sum += grad[(line[l] * cells_w + across) * depth + c] * (line_factor[l] * column_factor[k]);
            }
        }
        dx[i] = sum;
    }
}

EXPORT_FLOATS(regions,
              (const T* x, const Index* images, const Index* row_start, const Index* row, const T* row_factor,
               const Index* column_start, const Index* column, const T* column_factor, T* out, T fill, Index count,
               SIZES_OF_REGIONS),
              (x, images, row_start, row, row_factor, column_start, column, column_factor, out, fill, count, SIZES))
EXPORT_FLOATS(regions_gradient,
              (const T* grad, const Index* line_start, const Index* line, const T* line_factor, const Index* column_start,
               const Index* column, const T* column_factor, T* dx, Index count, SIZES_OF_REGIONS),
              (grad, line_start, line, line_factor, column_start, column, column_factor, dx, count, SIZES))
