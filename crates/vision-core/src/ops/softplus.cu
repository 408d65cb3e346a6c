// ln(1 + e^x) and its gradient, both without overflow.
#include "kernel.cuh"

template <typename T>
__device__ void softplus(const T* x, T* y, Index count) {
    FOR_EACH(i, count) y[i] = (x[i] > T(0) ? x[i] : T(0)) + log1p(exp(-abs(x[i])));
}

template <typename T>
__device__ void softplus_gradient(const T* x, const T* dy, T* dx, Index count) {
    FOR_EACH(i, count) {
        T e = exp(-abs(x[i]));
        dx[i] = dy[i] * (x[i] >= T(0) ? T(1) / (T(1) + e) : e / (T(1) + e));
    }
}

EXPORT_FLOATS(softplus, (const T* x, T* y, Index count), (x, y, count))
EXPORT_FLOATS(softplus_gradient, (const T* x, const T* dy, T* dx, Index count), (x, dy, dx, count))
