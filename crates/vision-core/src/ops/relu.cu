// max(x, 0) and its gradient, which the output alone decides; NaN stays.
#include "kernel.cuh"

template <typename T>
__device__ void relu(const T* x, T* y, Index count) {
    FOR_EACH(i, count) y[i] = x[i] <= T(0) ? T(0) : x[i];
}

template <typename T>
__device__ void relu_gradient(const T* y, const T* dy, T* dx, Index count) {
    FOR_EACH(i, count) dx[i] = y[i] <= T(0) ? T(0) : dy[i];
}

EXPORT_FLOATS(relu, (const T* x, T* y, Index count), (x, y, count))
EXPORT_FLOATS(relu_gradient, (const T* y, const T* dy, T* dx, Index count), (y, dy, dx, count))
