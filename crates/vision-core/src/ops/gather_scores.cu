// Inner products of features with selected rows of a bank, and the check that the selected rows exist.
#include "kernel.cuh"

#define LANES 32
#define WARPS (THREADS / LANES)
// Scores that one block of the gradient adds up; `SEGMENT` of the launching side.
#define SEGMENT 512

// `first` becomes the first position whose index is not below `rows`, if there is one. (The smallest of integers does
// not depend on the order.)
template <typename T>
__device__ void first_beyond(const Index* index, Index* first, Index count, Index rows) {
    FOR_EACH(i, count) if (index[i] >= rows) atomicMin(first, i);
}

// A warp for each score: its lanes read a row side by side.
template <typename T>
__device__ void gather_scores(const T* features, const T* bank, const Index* index, T* scores, Index count,
                              Index columns, Index width, T scale) {
    Index at = blockIdx.x * WARPS + threadIdx.x / LANES, lane = threadIdx.x % LANES;
    if (at >= count) return;
    const T* feature = features + at / columns * width;
    const T* row = bank + index[at] * width;
    T sum = 0;
    for (Index d = lane; d < width; d += LANES) sum += feature[d] * row[d];
    for (int lanes = LANES / 2; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, lanes);
    if (lane == 0) scores[at] = scale * sum;
}

// `partial[b, segment, d]`, the sum of `g[b, k] bank[index[b, k], d]` over a segment of the columns.
template <typename T>
__device__ void gather_scores_gradient(const T* g, const T* bank, const Index* index, T* partial, Index columns,
                                       Index width) {
    __shared__ T shared[THREADS];
    Index b = blockIdx.x, warp = threadIdx.x / LANES, lane = threadIdx.x % LANES;
    Index start = blockIdx.y * SEGMENT, end = columns - start < SEGMENT ? columns : start + SEGMENT;
    g += b * columns;
    index += b * columns;
    partial += (b * gridDim.y + blockIdx.y) * width;
    for (Index first = 0; first < width; first += LANES) {
        Index d = first + lane;
        T sum = 0;
        if (d < width)
            for (Index k = start + warp; k < end; k += WARPS) sum += g[k] * bank[index[k] * width + d];
        __syncthreads();
        shared[threadIdx.x] = sum;
        __syncthreads();
        if (warp == 0 && d < width) {
            for (Index other = 1; other < WARPS; ++other) sum += shared[other * LANES + lane];
            partial[d] = sum;
        }
    }
}

template <typename T>
__device__ void gather_scores_finish(const T* partial, T* df, Index count, Index segments, Index width, T scale) {
    FOR_EACH(i, count) {
        T sum = 0;
        for (Index segment = 0; segment < segments; ++segment)
            sum += partial[(i / width * segments + segment) * width + i % width];
        df[i] = scale * sum;
    }
}

EXPORT_FLOATS(first_beyond, (const Index* index, Index* first, Index count, Index rows), (index, first, count, rows))
EXPORT_FLOATS(gather_scores,
              (const T* features, const T* bank, const Index* index, T* scores, Index count, Index columns,
               Index width, T scale),
              (features, bank, index, scores, count, columns, width, scale))
EXPORT_FLOATS(gather_scores_gradient,
              (const T* g, const T* bank, const Index* index, T* partial, Index columns, Index width),
              (g, bank, index, partial, columns, width))
EXPORT_FLOATS(gather_scores_finish,
              (const T* partial, T* df, Index count, Index segments, Index width, T scale),
              (partial, df, count, segments, width, scale))
