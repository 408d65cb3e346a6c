// The two in-place steps of SGD with momentum.
#include "kernel.cuh"

template <typename T>
__device__ void sgd_momentum(T* buffer, const T* grad, const T* param, T decay, T momentum, T keep, Index first,
                             Index count) {
    FOR_EACH(i, count) {
        T g = grad[i] + param[i] * decay;
        buffer[i] = first ? g : buffer[i] * momentum + g * keep;
    }
}

// `buffer` is null without momentum; with Nesterov's form the gradient takes part beside it.
template <typename T>
__device__ void sgd_update(T* param, const T* grad, const T* buffer, T decay, T momentum, T lr, Index nesterov,
                           Index count) {
    FOR_EACH(i, count) {
        T step = grad[i] + param[i] * decay;
        if (buffer) step = nesterov ? step + buffer[i] * momentum : buffer[i];
        param[i] -= step * lr;
    }
}

EXPORT_FLOATS(sgd_momentum,
              (T* buffer, const T* grad, const T* param, T decay, T momentum, T keep, Index first, Index count),
              (buffer, grad, param, decay, momentum, keep, first, count))
EXPORT_FLOATS(sgd_update,
              (T* param, const T* grad, const T* buffer, T decay, T momentum, T lr, Index nesterov, Index count),
              (param, grad, buffer, decay, momentum, lr, nesterov, count))
