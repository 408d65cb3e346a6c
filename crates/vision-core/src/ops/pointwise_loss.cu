// Losses of one input and one target element: each by itself, their sum, their gradients.
#include "kernel.cuh"

// Constants of a loss. The factors repeat along the elements; there are none if the pointer is null.
template <typename T>
struct Constants {
    const T* weight;
    Index weights;
    const T* pos_weight;
    Index pos_weights;
    T beta;
};

// `ln(1 + e^-x)`.
template <typename T>
__device__ __forceinline__ T softplus_of_negative(T x) {
    return (x < T(0) ? -x : T(0)) + log1p(exp(-fabs(x)));
}

// `1 / (1 + e^x)`.
template <typename T>
__device__ __forceinline__ T sigmoid_of_negative(T x) {
    T e = exp(-fabs(x));
    return (x >= T(0) ? e : T(1)) / (T(1) + e);
}

struct BinaryCrossEntropy {
    template <typename T>
    static __device__ __forceinline__ T weigh(const Constants<T>& c, Index i, T x) {
        return c.weight ? x * c.weight[i % c.weights] : x;
    }
    template <typename T>
    static __device__ __forceinline__ T extra(const Constants<T>& c, Index i) {
        return c.pos_weight ? c.pos_weight[i % c.pos_weights] - T(1) : T(0);
    }
    template <typename T>
    static __device__ __forceinline__ T value(const Constants<T>& c, Index i, T x, T t) {
        return weigh(c, i, (T(1) - t) * x + (extra(c, i) * t + T(1)) * softplus_of_negative(x));
    }
    template <typename T>
    static __device__ __forceinline__ T input_slope(const Constants<T>& c, Index i, T x, T t) {
        return weigh(c, i, (T(1) - t) - (extra(c, i) * t + T(1)) * sigmoid_of_negative(x));
    }
    template <typename T>
    static __device__ __forceinline__ T target_slope(const Constants<T>& c, Index i, T x, T) {
        // Without a factor the logarithm is left out: it is not finite where the logit is not.
        return weigh(c, i, c.pos_weight ? extra(c, i) * softplus_of_negative(x) - x : -x);
    }
};

struct SmoothL1 {
    template <typename T>
    static __device__ __forceinline__ T value(const Constants<T>& c, Index, T x, T t) {
        T d = fabs(x - t);
        return d < c.beta ? T(0.5) * d * d / c.beta : d - T(0.5) * c.beta;
    }
    template <typename T>
    static __device__ __forceinline__ T input_slope(const Constants<T>& c, Index, T x, T t) {
        T d = x - t;
        if (d >= c.beta && d > T(0)) return T(1);
        if (d <= -c.beta && d < T(0)) return T(-1);
        // Zero at the kink of the plain L1 loss; NaN stays.
        return c.beta > T(0) ? d / c.beta : d * T(0);
    }
    template <typename T>
    static __device__ __forceinline__ T target_slope(const Constants<T>& c, Index i, T x, T t) {
        return -input_slope(c, i, x, t);
    }
};

template <typename Loss, typename T>
__device__ void each(const T* x, const T* t, T* out, Index count, Constants<T> c) {
    FOR_EACH(i, count) out[i] = Loss::value(c, i, x[i], t[i]);
}

// The sum over the elements of a block of the grid, in double: there may be millions.
template <typename Loss, typename T>
__device__ void sums(const T* x, const T* t, double* partial, Index count, Constants<T> c) {
    __shared__ double shared[THREADS];
    double sum = 0;
    FOR_EACH(i, count) sum += double(Loss::value(c, i, x[i], t[i]));
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// `g` has one element per loss (`mode` 0), or is that of the sum (1) or of the mean (2).
template <typename Loss, typename T>
__device__ void gradient(const T* x, const T* t, const T* g, T* out, Index count, int mode, int of_target,
                         Constants<T> c) {
    FOR_EACH(i, count) {
        T slope = of_target ? Loss::target_slope(c, i, x[i], t[i]) : Loss::input_slope(c, i, x[i], t[i]);
        out[i] = slope * (mode == 0 ? g[i] : mode == 1 ? g[0] : T(double(g[0]) / double(count)));
    }
}

// The sum of the partial sums over `divisor`, by one block.
template <typename T>
__device__ void finish(const double* partial, T* out, Index parts, double divisor) {
    __shared__ double shared[THREADS];
    double sum = 0;
    FOR_EACH_IN_BLOCK(i, parts) sum += partial[i];
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) out[0] = T(sum / divisor);
}

#define CONSTANTS const T *weight, Index weights, const T *pos_weight, Index pos_weights, T beta
#define GIVEN Constants<T>{weight, weights, pos_weight, pos_weights, beta}
#define EXPORT_LOSS(NAME, LOSS) \
    template <typename T> \
    __device__ void NAME##_each(const T* x, const T* t, T* out, Index count, CONSTANTS) { \
        each<LOSS, T>(x, t, out, count, GIVEN); \
    } \
    template <typename T> \
    __device__ void NAME##_sums(const T* x, const T* t, double* partial, Index count, CONSTANTS) { \
        sums<LOSS, T>(x, t, partial, count, GIVEN); \
    } \
    template <typename T> \
    __device__ void NAME##_gradient(const T* x, const T* t, const T* g, T* out, Index count, int mode, int of_target, \
                                    CONSTANTS) { \
        gradient<LOSS, T>(x, t, g, out, count, mode, of_target, GIVEN); \
    } \
    EXPORT_FLOATS(NAME##_each, (const T* x, const T* t, T* out, Index count, CONSTANTS), \
                  (x, t, out, count, weight, weights, pos_weight, pos_weights, beta)) \
    EXPORT_FLOATS(NAME##_sums, (const T* x, const T* t, double* partial, Index count, CONSTANTS), \
                  (x, t, partial, count, weight, weights, pos_weight, pos_weights, beta)) \
    EXPORT_FLOATS(NAME##_gradient, \
                  (const T* x, const T* t, const T* g, T* out, Index count, int mode, int of_target, CONSTANTS), \
                  (x, t, g, out, count, mode, of_target, weight, weights, pos_weight, pos_weights, beta))

EXPORT_LOSS(binary_cross_entropy_with_logits, BinaryCrossEntropy)
EXPORT_LOSS(smooth_l1_loss, SmoothL1)
EXPORT_FLOATS(finish, (const double* partial, T* out, Index parts, double divisor), (partial, out, parts, divisor))
