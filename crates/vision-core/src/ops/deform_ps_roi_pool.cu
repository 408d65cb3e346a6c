// Pooling of cells that offsets move. The samples of a cell lie on a grid, so their places are found once for each axis;
// what follows reads them.
#include "kernel.cuh"

// The pixel below a sample that is left out.
#define NOWHERE 0xffffffffu

// `groups` and `cells` are those along an axis; `count` is that of the work.
#define PARAMS \
    Index height, Index width, Index channels, Index cells, Index groups, Index classes, Index samples, Index parts, \
        Index count
#define ARGS height, width, channels, cells, groups, classes, samples, parts, count

// Numbers of `sides`: for each region along (y, x) its start, its length, that of a cell, and the distance of samples.
#define SIDE 4

// For each cell and class, along (y, x), the pixel below each sample and the distance from it. In the order of the host's
// arithmetic, which decides what is left out.
template <typename T>
__device__ void deform_ps_places(const double* sides, const T* offset, Index* low, T* beyond, double trans_std, PARAMS) {
    FOR_EACH(at, count) {
        Index sample = at % samples, rest = at / samples;
        Index axis = rest % 2;
        rest /= 2;
        Index group = rest % classes;
        rest /= classes;
        Index across = rest % cells;
        rest /= cells;
        Index down = rest % cells, region = rest / cells;
        // x comes first.
        Index plane = (region * classes + group) * 2 + (1 - axis);
        double move = offset ? offset[(plane * parts + down * parts / cells) * parts + across * parts / cells] : T(0);
        const double* side = sides + (region * 2 + axis) * SIDE;
        double start = side[0] + rounded_product(double(axis ? across : down), side[2]) +
                       rounded_product(rounded_product(move, trans_std), side[1]);
        double position = start + rounded_product(double(sample), side[3]), last = double(axis ? width : height) - 1.0;
        low[at] = NOWHERE;
        beyond[at] = T(0);
        if (position >= -0.5 && position <= last + 0.5) {
            position = position < 0.0 ? 0.0 : position > last ? last : position;
            low[at] = Index(position);
            beyond[at] = T(position - double(low[at]));
        }
    }
}

// The samples of a cell and class along both axes.
template <typename T>
struct Samples {
    const Index *rows, *columns;
    const T *row_beyond, *column_beyond;
    Index number;

    __device__ Samples(const Index* low, const T* beyond, Index cell, Index samples) {
        rows = low + cell * 2 * samples;
        columns = rows + samples;
        row_beyond = beyond + cell * 2 * samples;
        column_beyond = row_beyond + samples;
        Index down = 0, across = 0;
        for (Index s = 0; s < samples; ++s) {
            down += rows[s] != NOWHERE;
            across += columns[s] != NOWHERE;
        }
        number = down * across;
    }
    // One over the number of samples.
    __device__ T share() const { return T(1) / T(number ? number : 1); }
};

// The pixels around a sample: one channel of those that it counts, zero for the others.
template <typename T>
struct Around {
    T v[4];

    __device__ Around(const T* image, Index y, Index x, T row_beyond, T column_beyond, Index width, Index channels) {
        const T* pixel = image + (y * width + x) * channels;
        bool right = column_beyond > T(0), lower = row_beyond > T(0);
        v[0] = pixel[0];
        v[1] = right ? pixel[channels] : T(0);
        v[2] = lower ? pixel[width * channels] : T(0);
        v[3] = right && lower ? pixel[(width + 1) * channels] : T(0);
    }
};

// The group of channels that a cell reads.
__device__ __forceinline__ Index group_of(Index down, Index across, Index groups, Index cells) {
    return down * groups / cells * groups + across * groups / cells;
}

template <typename T>
__device__ void deform_ps_pool(const T* x, const Index* images, const Index* low, const T* beyond, T* out, PARAMS) {
    Index depth = channels / (groups * groups);
    FOR_EACH(i, count) {
        Index c = i % depth, cell = i / depth, across = cell % cells, down = cell / cells % cells;
        Samples<T> all(low, beyond, cell * classes + c / (depth / classes), samples);
        const T* image = x + images[cell / (cells * cells)] * height * width * channels + c * groups * groups +
                         group_of(down, across, groups, cells);
        T sum = 0;
        for (Index s = 0; s < samples; ++s) {
            if (all.rows[s] == NOWHERE) continue;
            T row = all.row_beyond[s];
            for (Index t = 0; t < samples; ++t) {
                if (all.columns[t] == NOWHERE) continue;
                T column = all.column_beyond[t];
                Around<T> at(image, all.rows[s], all.columns[t], row, column, width, channels);
                sum += (at.v[0] * (T(1) - column) + at.v[1] * column) * (T(1) - row) +
                       (at.v[2] * (T(1) - column) + at.v[3] * column) * row;
            }
        }
        out[i] = sum * all.share();
    }
}

// The cells between pixels and the weights of `count` samples, for the sums of `samples.cu`: each class of each group of
// channels of an image has cells of its own, `none` is that of samples that are left out.
template <typename T>
__device__ void deform_ps_cells(const Index* images, const Index* low, const T* beyond, Index* pixel_cells, T* weights,
                                Index none, PARAMS) {
    FOR_EACH(i, count) {
        Index group = i % classes, rest = i / classes;
        Index t = rest % samples;
        rest /= samples;
        Index s = rest % samples, cell = rest / samples;
        Samples<T> all(low, beyond, cell * classes + group, samples);
        Index y = all.rows[s], x = all.columns[t];
        T row = all.row_beyond[s], column = all.column_beyond[t], share = all.share();
        Index map = images[cell / (cells * cells)] * groups * groups +
                    group_of(cell / cells % cells, cell % cells, groups, cells);
        bool nowhere = y == NOWHERE || x == NOWHERE;
        pixel_cells[i] = nowhere ? none : ((map * classes + group) * (height + 1) + y + 1) * (width + 1) + x + 1;
        weights[4 * i] = (T(1) - row) * (T(1) - column) * share;
        weights[4 * i + 1] = (T(1) - row) * column * share;
        weights[4 * i + 2] = row * (T(1) - column) * share;
        weights[4 * i + 3] = row * column * share;
    }
}

// The gradient of the offsets of `count` parts: a warp for each goes through the cells that belong to it.
template <typename T>
__device__ void deform_ps_offset(const T* x, const Index* images, const double* sides, const Index* low, const T* beyond,
                                 const T* grad, T* out, double trans_std, PARAMS) {
    Index part = blockIdx.x * (THREADS / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (part >= count) return;
    Index depth = channels / (groups * groups), run = depth / classes;
    Index part_x = part % parts, rest = part / parts;
    Index part_y = rest % parts;
    rest /= parts;
    Index group = rest % classes, region = rest / classes;
    double along_y = 0, along_x = 0;
    for (Index down = 0; down < cells; ++down) {
        if (down * parts / cells != part_y) continue;
        for (Index across = 0; across < cells; ++across) {
            if (across * parts / cells != part_x) continue;
            Index cell = (region * cells + down) * cells + across;
            Samples<T> all(low, beyond, cell * classes + group, samples);
            const T* image = x + images[region] * height * width * channels + group_of(down, across, groups, cells);
            T down_sum = 0, across_sum = 0;
            for (Index c = group * run + lane; c < (group + 1) * run; c += 32) {
                T slope_y = 0, slope_x = 0;
                for (Index s = 0; s < samples; ++s) {
                    if (all.rows[s] == NOWHERE) continue;
                    T row = all.row_beyond[s];
                    for (Index t = 0; t < samples; ++t) {
                        if (all.columns[t] == NOWHERE) continue;
                        T column = all.column_beyond[t];
                        Around<T> at(image + c * groups * groups, all.rows[s], all.columns[t], row, column, width,
                                     channels);
                        // On a pixel, and beyond the last one, nothing changes.
                        if (row > T(0))
                            slope_y += (at.v[2] - at.v[0]) * (T(1) - column) + (at.v[3] - at.v[1]) * column;
                        if (column > T(0)) slope_x += (at.v[1] - at.v[0]) * (T(1) - row) + (at.v[3] - at.v[2]) * row;
                    }
                }
                down_sum += slope_y * grad[cell * depth + c];
                across_sum += slope_x * grad[cell * depth + c];
            }
            double scale = trans_std / double(all.number ? all.number : 1);
            along_y += double(warp_sum(down_sum)) * scale;
            along_x += double(warp_sum(across_sum)) * scale;
        }
    }
    if (lane == 0) {
        const double* side = sides + region * 2 * SIDE;
        T* to = out + (rest * 2 * parts + part_y) * parts + part_x;
        to[0] = T(along_x * side[SIDE + 1]);
        to[parts * parts] = T(along_y * side[1]);
    }
}

EXPORT_FLOATS(deform_ps_places,
              (const double* sides, const T* offset, Index* low, T* beyond, double trans_std, PARAMS),
              (sides, offset, low, beyond, trans_std, ARGS))
EXPORT_FLOATS(deform_ps_pool,
              (const T* x, const Index* images, const Index* low, const T* beyond, T* out, PARAMS),
              (x, images, low, beyond, out, ARGS))
EXPORT_FLOATS(deform_ps_cells,
              (const Index* images, const Index* low, const T* beyond, Index* pixel_cells, T* weights, Index none, PARAMS),
              (images, low, beyond, pixel_cells, weights, none, ARGS))
EXPORT_FLOATS(deform_ps_offset,
              (const T* x, const Index* images, const double* sides, const Index* low, const T* beyond, const T* grad,
               T* out, double trans_std, PARAMS),
              (x, images, sides, low, beyond, grad, out, trans_std, ARGS))
