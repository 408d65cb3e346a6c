// The four pixels around a position between pixels; `Corners` of `ops/corners.rs`, rule for rule.
#pragma once
#include "kernel.cuh"

// The pixel below a coordinate and the distance from it; whether it and the next one are among `size` pixels.
template <typename T>
struct Neighbours {
    int low;
    bool first, second;
    T distance;
};

template <typename T>
__device__ Neighbours<T> neighbours(T at, int size) {
    T below = floor(at);
    Neighbours<T> found = {-1, false, false, at - below};
    // NaN and infinities are nowhere inside.
    if (below >= T(-1) && below < T(size)) {
        found.low = int(below);
        found.first = found.low >= 0 && found.low < size;
        found.second = found.low + 1 < size;
    }
    return found;
}

// In the order (low, low), (low, high), (high, low), (high, high) of rows and columns.
template <typename T>
struct Corners {
    Neighbours<T> y, x;

    __device__ bool has(int corner) const {
        return (corner < 2 ? y.first : y.second) && (corner % 2 == 0 ? x.first : x.second);
    }
    // The pixel's number in an image of rows of `width` pixels, if it is inside.
    __device__ Index pixel(int corner, Index width) const {
        return Index(y.low + corner / 2) * width + Index(x.low + corner % 2);
    }
    __device__ void weights(T scale, T* out) const {
        T ey = T(1) - y.distance, ex = T(1) - x.distance;
        out[0] = ey * ex * scale;
        out[1] = ey * x.distance * scale;
        out[2] = y.distance * ex * scale;
        out[3] = y.distance * x.distance * scale;
    }
    // The interpolated value of the channel that `image` starts with, times `scale`. Pixels outside are zero; where no
    // position is a number neither is the result.
    __device__ T sample(const T* image, Index width, Index channels, T scale) const {
        T share[4];
        weights(scale, share);
        T sum = 0;
        for (int corner = 0; corner < 4; ++corner)
            sum += (has(corner) ? image[pixel(corner, width) * channels] : T(0)) * share[corner];
        return sum;
    }
    // Derivatives of the interpolated value along (y, x), from values (or products with them) at the pixels.
    __device__ void slopes(const T* at, T& along_y, T& along_x) const {
        T ey = T(1) - y.distance, ex = T(1) - x.distance;
        along_y = (at[2] - at[0]) * ex + (at[3] - at[1]) * x.distance;
        along_x = (at[1] - at[0]) * ey + (at[3] - at[2]) * y.distance;
    }
    // Which of the cells between the pixels of image number `image` this is, or `none` where no pixel is inside: cells
    // have one row and one column more than pixels, and cell (y, x) has pixel (y, x) at its far corner.
    __device__ Index cell(Index image, Index height, Index width, Index none) const {
        if (!(y.first || y.second) || !(x.first || x.second)) return none;
        return (image * (height + 1) + Index(y.low + 1)) * (width + 1) + Index(x.low + 1);
    }
};

template <typename T>
__device__ Corners<T> corners_around(T y, T x, Index height, Index width) {
    return Corners<T>{neighbours(y, int(height)), neighbours(x, int(width))};
}

// No pixel at all, without distance.
template <typename T>
__device__ Corners<T> corners_nowhere() {
    Neighbours<T> none = {-1, false, false, T(0)};
    return Corners<T>{none, none};
}
