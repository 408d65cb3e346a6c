// Sums over the rows of a matrix `(rows, columns)`, in two steps whose order depends on the sizes only. Sums are kept
// in double: they run over whole batches.
#include "kernel.cuh"

// A block is 32 columns wide and 8 rows high.
#define WIDE 32
#define HIGH (THREADS / WIDE)

// Part `blockIdx.y` of the rows: `partial[blockIdx.y, column]`.
template <typename T>
__device__ void column_sums(const T* x, double* partial, Index rows, Index columns) {
    __shared__ double shared[THREADS];
    Index column = blockIdx.x * WIDE + threadIdx.x % WIDE, lane = threadIdx.x / WIDE;
    double sum = 0;
    if (column < columns)
        for (Index row = blockIdx.y * HIGH + lane; row < rows; row += gridDim.y * HIGH) sum += x[row * columns + column];
    shared[threadIdx.x] = sum;
    __syncthreads();
    if (lane == 0 && column < columns) {
        for (Index i = 1; i < HIGH; ++i) sum += shared[i * WIDE + threadIdx.x];
        partial[blockIdx.y * columns + column] = sum;
    }
}

// `out[column]`, the sum of `parts` partial sums.
template <typename T>
__device__ void column_sums_finish(const double* partial, T* out, Index parts, Index columns) {
    FOR_EACH(column, columns) {
        double sum = 0;
        for (Index part = 0; part < parts; ++part) sum += partial[part * columns + column];
        out[column] = T(sum);
    }
}

EXPORT_FLOATS(column_sums, (const T* x, double* partial, Index rows, Index columns), (x, partial, rows, columns))
EXPORT_FLOATS(column_sums_finish, (const double* partial, T* out, Index parts, Index columns),
              (partial, out, parts, columns))
