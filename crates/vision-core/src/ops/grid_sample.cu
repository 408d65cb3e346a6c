// Samples of a map at the places of a grid, and the gradients.
#include "corners.cuh"

// Numbers of the options, as the launching side gives them.
#define ZEROS 0
#define BORDER 1

#define PARAMS \
    Index height, Index width, Index channels, Index places, Index nearest, Index padding, Index align_corners, Index count
#define ARGS height, width, channels, places, nearest, padding, align_corners, count

// A coordinate and its derivative by the grid's number.
template <typename T>
struct Located {
    T at, slope;
};

// How grid numbers become coordinates along one axis.
template <typename T>
struct Axis {
    T low, scale, last;
    Index padding;

    __device__ Axis(Index size, Index padding_mode, Index align_corners) {
        double pixels = size;
        low = T(align_corners ? 0. : -0.5);
        scale = T(align_corners ? (pixels - 1.) / 2. : pixels / 2.);
        last = T(pixels - 1.);
        padding = padding_mode;
    }
    __device__ Located<T> locate(T g) const {
        T at = rounded_product(g + T(1), scale) + low;
        if (padding == ZEROS) return Located<T>{at, scale};
        return padding == BORDER ? clip(at, scale) : reflect(at);
    }
    // Moves `at` into the map; borders count as outside for the derivative.
    __device__ Located<T> clip(T at, T slope) const {
        if (at > T(0) && at < last) return Located<T>{at, slope};
        // Left of the map, or NaN, is the first pixel.
        return Located<T>{at >= last ? last : T(0), T(0)};
    }
    __device__ Located<T> reflect(T at) const {
        T period = scale * T(4);
        if (period == T(0)) return Located<T>{T(0), T(0)};
        T from_low = at - low, distance = fabs(from_low);
        T extra = distance - rounded_product(trunc(distance / period), period);
        T mirrored = period - extra;
        bool flipped = extra > mirrored;
        return clip((flipped ? mirrored : extra) + low, flipped == (from_low < T(0)) ? scale : -scale);
    }
};

// The pixels around place number `sample`, and the derivatives of its coordinates.
template <typename T>
__device__ Corners<T> find(const T* grid, Index sample, T& slope_y, T& slope_x, PARAMS) {
    Located<T> x = Axis<T>(width, padding, align_corners).locate(grid[2 * sample]);
    Located<T> y = Axis<T>(height, padding, align_corners).locate(grid[2 * sample + 1]);
    slope_y = y.slope;
    slope_x = x.slope;
    if (!nearest) return corners_around(y.at, x.at, height, width);
    // Halves to even. A pixel without a number for a place is none, not NaN.
    T row = rint(y.at), column = rint(x.at);
    return isfinite(row) && isfinite(column) ? corners_around(row, column, height, width) : corners_nowhere<T>();
}

// `places` of a grid for each image.
template <typename T>
__device__ void grid_sample(const T* input, const T* grid, T* out, PARAMS) {
    FOR_EACH(i, count) {
        Index c = i % channels, sample = i / channels;
        T slope_y, slope_x;
        Corners<T> corners = find(grid, sample, slope_y, slope_x, ARGS);
        const T* image = input + sample / places * height * width * channels + c;
        out[i] = corners.sample(image, width, channels, T(1));
    }
}

// The gradient of the grid, of `count` places: a warp for each adds up over channels.
template <typename T>
__device__ void grid_sample_grid(const T* input, const T* grid, const T* grad, T* out, PARAMS) {
    Index sample = blockIdx.x * (THREADS / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (sample >= count) return;
    T slope_y, slope_x;
    Corners<T> corners = find(grid, sample, slope_y, slope_x, ARGS);
    const T* image = input + sample / places * height * width * channels;
    T sums[4];
    for (int corner = 0; corner < 4; ++corner) {
        T sum = 0;
        if (corners.has(corner)) {
            const T* pixel = image + corners.pixel(corner, width) * channels;
            for (Index c = lane; c < channels; c += 32) sum += grad[sample * channels + c] * pixel[c];
        }
        sums[corner] = warp_sum(sum);
    }
    T along_y, along_x;
    corners.slopes(sums, along_y, along_x);
    if (lane == 0) {
        out[2 * sample] = along_x * slope_x;
        out[2 * sample + 1] = along_y * slope_y;
    }
}

// The cells and weights of `count` places; `none` is the cell of those without pixels.
template <typename T>
__device__ void grid_sample_cells(const T* grid, Index* cells, T* weights, Index none, PARAMS) {
    FOR_EACH(sample, count) {
        T slope_y, slope_x;
        Corners<T> corners = find(grid, sample, slope_y, slope_x, ARGS);
        cells[sample] = corners.cell(sample / places, height, width, none);
        corners.weights(T(1), weights + 4 * sample);
    }
}

EXPORT_FLOATS(grid_sample, (const T* input, const T* grid, T* out, PARAMS), (input, grid, out, ARGS))
EXPORT_FLOATS(grid_sample_grid, (const T* input, const T* grid, const T* grad, T* out, PARAMS),
              (input, grid, grad, out, ARGS))
EXPORT_FLOATS(grid_sample_cells, (const T* grid, Index* cells, T* weights, Index none, PARAMS),
              (grid, cells, weights, none, ARGS))
