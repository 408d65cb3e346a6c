// Adding to rows at indices, and reading them: each thread owns an element of the result.
#include "kernel.cuh"

// `out = input`, plus the rows `order[starts[row]] .. order[starts[row + 1]]` of the source, in that order.
template <typename T>
__device__ void add_rows(const T* input, const T* source, const Index* starts, const Index* order, T* out, Index count,
                         Index width) {
    FOR_EACH(i, count) {
        Index row = i / width, column = i % width, end = starts[row + 1];
        T sum = input[i];
        for (Index at = starts[row]; at < end; ++at) sum += source[order[at] * width + column];
        out[i] = sum;
    }
}

// `out[k] = from[rows[k]]`.
template <typename T>
__device__ void take_rows(const T* from, const Index* rows, T* out, Index count, Index width) {
    FOR_EACH(i, count) out[i] = from[rows[i / width] * width + i % width];
}

EXPORT_FLOATS(add_rows,
              (const T* input, const T* source, const Index* starts, const Index* order, T* out, Index count,
               Index width),
              (input, source, starts, order, out, count, width))
EXPORT_FLOATS(take_rows, (const T* from, const Index* rows, T* out, Index count, Index width),
              (from, rows, out, count, width))
