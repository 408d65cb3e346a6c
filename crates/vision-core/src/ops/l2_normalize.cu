// Rows divided by their norm, a block each; sums in double.
#include "kernel.cuh"

template <typename T>
__device__ double row_norm(const T* row, Index width, double* shared) {
    double sum = 0;
    FOR_EACH_IN_BLOCK(i, width) sum += double(row[i]) * double(row[i]);
    return sqrt(block_sum(sum, shared));
}

template <typename T>
__device__ void l2_normalize(const T* x, T* y, double eps, Index width) {
    __shared__ double shared[THREADS];
    const T* row = x + blockIdx.x * width;
    double norm = row_norm(row, width, shared);
    // NaN stays.
    if (norm < eps) norm = eps;
    FOR_EACH_IN_BLOCK(i, width) y[blockIdx.x * width + i] = T(double(row[i]) / norm);
}

// `(dy - y <y, dy>) / norm`, or `dy / eps` where the norm was replaced.
template <typename T>
__device__ void l2_normalize_gradient(const T* x, const T* y, const T* dy, T* dx, double eps, Index width) {
    __shared__ double shared[THREADS];
    Index first = blockIdx.x * width;
    double norm = row_norm(x + first, width, shared), along = 0;
    FOR_EACH_IN_BLOCK(i, width) along += double(y[first + i]) * double(dy[first + i]);
    along = block_sum(along, shared);
    if (norm < eps) {
        along = 0;
        norm = eps;
    }
    FOR_EACH_IN_BLOCK(i, width) dx[first + i] = T((double(dy[first + i]) - double(y[first + i]) * along) / norm);
}

EXPORT_FLOATS(l2_normalize, (const T* x, T* y, double eps, Index width), (x, y, eps, width))
EXPORT_FLOATS(l2_normalize_gradient, (const T* x, const T* y, const T* dy, T* dx, double eps, Index width),
              (x, y, dy, dx, eps, width))
