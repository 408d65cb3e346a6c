// Inner products of queries with rows. Every product is added up in the order of its dimensions by one thread, so it is
// the same to the last bit however queries and rows are grouped, which a library does not promise.
#include "kernel.cuh"

// A block makes TILE x TILE products, each thread a square of SIDE x SIDE of them; DEPTH dimensions lie in shared memory.
#define TILE 64
#define DEPTH 16
#define SIDE 4

// `scores[query, row]`, and in `nan` the first query with a score that is NaN, counted from `first_query`.
template <typename T>
__device__ void inner_products(const T* queries, const T* rows, T* scores, Index* nan, Index query_count,
                               Index row_count, Index width, Index first_query) {
    // One element wider, so that threads do not wait for the same bank of memory.
    __shared__ T a[DEPTH][TILE + 1], b[DEPTH][TILE + 1];
    Index first_row = blockIdx.x * TILE, first = blockIdx.y * TILE;
    Index across = threadIdx.x % (TILE / SIDE), down = threadIdx.x / (TILE / SIDE);
    T sums[SIDE][SIDE];
    for (Index i = 0; i < SIDE; ++i)
        for (Index j = 0; j < SIDE; ++j) sums[i][j] = 0;
    for (Index depth = 0; depth < width; depth += DEPTH) {
        for (Index i = threadIdx.x; i < TILE * DEPTH; i += THREADS) {
            Index at = i / DEPTH, d = i % DEPTH;
            bool inside = depth + d < width;
            a[d][at] = inside && first + at < query_count ? queries[(first + at) * width + depth + d] : T(0);
            b[d][at] = inside && first_row + at < row_count ? rows[(first_row + at) * width + depth + d] : T(0);
        }
        __syncthreads();
        for (Index d = 0; d < DEPTH; ++d) {
            T left[SIDE], right[SIDE];
            for (Index i = 0; i < SIDE; ++i) {
                left[i] = a[d][down + i * (TILE / SIDE)];
                right[i] = b[d][across + i * (TILE / SIDE)];
            }
            for (Index i = 0; i < SIDE; ++i)
                for (Index j = 0; j < SIDE; ++j) sums[i][j] = fma(left[i], right[j], sums[i][j]);
        }
        __syncthreads();
    }
    for (Index i = 0; i < SIDE; ++i) {
        Index query = first + down + i * (TILE / SIDE);
        for (Index j = 0; j < SIDE; ++j) {
            Index row = first_row + across + j * (TILE / SIDE);
            if (query >= query_count || row >= row_count) continue;
            scores[query * row_count + row] = sums[i][j];
            if (sums[i][j] != sums[i][j]) atomicMin(nan, first_query + query);
        }
    }
}

EXPORT_FLOATS(inner_products,
              (const T* queries, const T* rows, T* scores, Index* nan, Index query_count, Index row_count, Index width,
               Index first_query),
              (queries, rows, scores, nan, query_count, row_count, width, first_query))
