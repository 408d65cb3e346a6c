// One in-place step of Adam or AdamW.
#include "kernel.cuh"

// `state` holds the averages one after the other: of gradients, of squares and, with AMSGrad, the largest of the
// latter. `kept` and `decay` are the two forms of weight decay; `rate` is negative.
template <typename T>
__device__ void adam_step(T* param, const T* grad, T* state, T kept, T decay, T first, T second, T second_old, T root,
                          T eps, T rate, Index amsgrad, Index count) {
    FOR_EACH(i, count) {
        T p = param[i];
        T g = grad[i] + p * decay;
        T m = state[i];
        m += (g - m) * first;
        state[i] = m;
        T v = state[count + i] * second_old + second * g * g;
        state[count + i] = v;
        if (amsgrad) {
            T most = state[2 * count + i];
            // NaN wins.
            if (v > most || v != v) most = v;
            state[2 * count + i] = most;
            v = most;
        }
        param[i] = p * kept + rate * m / (sqrt(v) / root + eps);
    }
}

EXPORT_FLOATS(adam_step,
              (T* param, const T* grad, T* state, T kept, T decay, T first, T second, T second_old, T root, T eps,
               T rate, Index amsgrad, Index count),
              (param, grad, state, kept, decay, first, second, second_old, root, eps, rate, amsgrad, count))
