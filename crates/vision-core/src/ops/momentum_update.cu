// Moving averages of the rows of a memory bank. Rows are made and checked by one kernel and written by another.
#include "kernel.cuh"

// A block for each row of the batch; the first one with an index does the work of all that share it, in their order.
// `rows[b]` becomes the bank's row after the batch where `written[b]` is set; `bad` the first row of the batch whose
// norm (in `norms`) is not a number to divide by.
template <typename T>
__device__ void momentum_rows(const T* bank, const Index* index, const T* features, T* rows, Index* written, Index* bad,
                              double* norms, Index batch, Index width, double momentum, double rest) {
    __shared__ double shared[THREADS];
    __shared__ Index earlier;
    Index first = blockIdx.x, y = index[first];
    if (threadIdx.x == 0) earlier = 0;
    __syncthreads();
    FOR_EACH_IN_BLOCK(b, first) if (index[b] == y) earlier = 1;
    __syncthreads();
    if (threadIdx.x == 0) written[first] = !earlier;
    if (earlier) return;
    const T* old = bank + y * width;
    T* row = rows + first * width;
    for (Index b = first; b < batch; ++b) {
        if (index[b] != y) continue;
        const T* feature = features + b * width;
        double sum = 0;
        FOR_EACH_IN_BLOCK(i, width) {
            double u = momentum * double(old[i]) + rest * double(feature[i]);
            sum += u * u;
        }
        double norm = sqrt(block_sum(sum, shared));
        if (threadIdx.x == 0) norms[b] = norm;
        if (!(norm > 0 && norm <= largest_finite<double>())) {
            if (threadIdx.x == 0) atomicMin(bad, b);
            return;
        }
        // Every thread reads again what it wrote itself only.
        FOR_EACH_IN_BLOCK(i, width) {
            double u = momentum * double(old[i]) + rest * double(feature[i]);
            row[i] = T(u / norm);
        }
        old = row;
    }
}

template <typename T>
__device__ void momentum_write(const T* rows, const Index* index, const Index* written, T* bank, Index width) {
    Index b = blockIdx.x;
    if (written[b]) FOR_EACH_IN_BLOCK(i, width) bank[index[b] * width + i] = rows[b * width + i];
}

EXPORT_FLOATS(momentum_rows,
              (const T* bank, const Index* index, const T* features, T* rows, Index* written, Index* bad, double* norms,
               Index batch, Index width, double momentum, double rest),
              (bank, index, features, rows, written, bad, norms, batch, width, momentum, rest))
EXPORT_FLOATS(momentum_write, (const T* rows, const Index* index, const Index* written, T* bank, Index width),
              (rows, index, written, bank, width))
