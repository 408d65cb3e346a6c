// Bins of adaptive pooling: `floor(i size / bins)` to below `ceil((i + 1) size / bins)`.
#pragma once
#include "kernel.cuh"

__device__ __forceinline__ Index bin_start(Index i, Index size, Index bins) { return i * size / bins; }
__device__ __forceinline__ Index bin_end(Index i, Index size, Index bins) { return ((i + 1) * size + bins - 1) / bins; }
