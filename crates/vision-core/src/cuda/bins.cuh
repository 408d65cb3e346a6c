// Bins of adaptive pooling: `floor(i size / bins)` to below `ceil((i + 1) size / bins)`.
#pragma once
#include "kernel.cuh"

__device__ __forceinline__ Index bin_start(Index i, Index size, Index bins) { return i * size / bins; }
__device__ __forceinline__ Index bin_end(Index i, Index size, Index bins) { return ((i + 1) * size + bins - 1) / bins; }

// Channel, column, row and image of element `i` of a map (images, height, width, channels).
struct Place {
    Index channel, x, y, image;
};

__device__ __forceinline__ Place place_of(Index i, Index height, Index width, Index channels) {
    Index rest = i / channels, row = rest / width;
    return Place{i % channels, rest % width, row % height, row / height};
}
