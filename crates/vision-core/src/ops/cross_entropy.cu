// Cross entropy of `(N, C, inner)` logits, a thread for each position; a block where there is a single position per row.
#include "kernel.cuh"

#define IGNORED 0xffffffffu

// The largest of `value` over the threads that share a position, and the sum. With one thread they are the value.
struct Alone {
    __device__ double largest(double value) { return value; }
    __device__ double sum(double value) { return value; }
};
struct Together {
    double* shared;
    __device__ double largest(double value) { return block_max(value, shared); }
    __device__ double sum(double value) { return block_sum(value, shared); }
};

// Loss, maximum and sum of exponentials of one position whose classes `first, first + step, ...` are this thread's.
// `total` is the sum of all class weights, `even` the share of the smoothing for each class.
template <typename T, typename Lanes>
__device__ void position_loss(Lanes lanes, const T* x, Index target, const double* weight, double* loss, double* softmax,
                              double smoothing, double even, double total, Index classes, Index inner, Index first,
                              Index step) {
    double top = -INFINITY, sum = 0, weighted = 0;
    for (Index c = first; c < classes; c += step)
        if (double(x[c * inner]) > top) top = x[c * inner];
    top = lanes.largest(top);
    for (Index c = first; c < classes; c += step) {
        T shifted = x[c * inner] - T(top);
        sum += double(exp(shifted));
        if (smoothing > 0) weighted += (weight ? weight[c] : 1.0) * double(shifted);
    }
    sum = lanes.sum(sum);
    if (smoothing > 0) weighted = lanes.sum(weighted);
    if (first != 0) return;
    softmax[0] = top;
    softmax[1] = sum;
    *loss = 0;
    if (target == IGNORED) return;
    double log_sum = log(sum), own = double(x[target * inner] - T(top));
    *loss = (1.0 - smoothing) * (weight ? weight[target] : 1.0) * (log_sum - own);
    if (smoothing > 0) *loss += even * (total * log_sum - weighted);
}

template <typename T>
__device__ void cross_entropy(const T* x, const Index* target, const double* weight, double* losses, double* softmax,
                              double smoothing, double even, double total, Index classes, Index inner, Index count) {
    FOR_EACH(i, count) {
        const T* from = x + i / inner * classes * inner + i % inner;
        position_loss(Alone(), from, target[i], weight, losses + i, softmax + 2 * i, smoothing, even, total, classes,
                      inner, 0, 1);
    }
}

template <typename T>
__device__ void cross_entropy_rows(const T* x, const Index* target, const double* weight, double* losses, double* softmax,
                                   double smoothing, double even, double total, Index classes) {
    __shared__ double shared[THREADS];
    Index i = blockIdx.x;
    position_loss(Together{shared}, x + i * classes, target[i], weight, losses + i, softmax + 2 * i, smoothing, even,
                  total, classes, 1, threadIdx.x, THREADS);
}

// Losses in the element type, divided by `total`.
template <typename T>
__device__ void cross_entropy_finish(const double* losses, T* out, double total, Index count) {
    FOR_EACH(i, count) out[i] = T(losses[i] / total);
}

// The gradient of every logit. `upstream` has one element per position, or one for all, divided by `total`.
template <typename T>
__device__ void cross_entropy_gradient(const T* x, const Index* target, const double* weight, const double* softmax,
                                       const T* upstream, T* dx, double smoothing, double even, double total_weight,
                                       double total, Index each, Index classes, Index inner, Index count) {
    FOR_EACH(i, count) {
        Index rest = i / inner, position = rest / classes * inner + i % inner, c = rest % classes, y = target[position];
        if (y == IGNORED) {
            dx[i] = 0;
            continue;
        }
        double up = double(upstream[each ? position : 0]) / total;
        double own = weight ? weight[c] : 1.0;
        double direct = (1.0 - smoothing) * (weight ? weight[y] : 1.0);
        double share = double(exp(x[i] - T(softmax[2 * position]))) / softmax[2 * position + 1];
        double hit = y == c ? (1.0 - smoothing) * own : 0.0;
        dx[i] = T(up * ((direct + even * total_weight) * share - hit - even * own));
    }
}

EXPORT_FLOATS(cross_entropy,
              (const T* x, const Index* target, const double* weight, double* losses, double* softmax, double smoothing,
               double even, double total, Index classes, Index inner, Index count),
              (x, target, weight, losses, softmax, smoothing, even, total, classes, inner, count))
EXPORT_FLOATS(cross_entropy_rows,
              (const T* x, const Index* target, const double* weight, double* losses, double* softmax, double smoothing,
               double even, double total, Index classes),
              (x, target, weight, losses, softmax, smoothing, even, total, classes))
EXPORT_FLOATS(cross_entropy_finish, (const double* losses, T* out, double total, Index count), (losses, out, total, count))
EXPORT_FLOATS(cross_entropy_gradient,
              (const T* x, const Index* target, const double* weight, const double* softmax, const T* upstream, T* dx,
               double smoothing, double even, double total_weight, double total, Index each, Index classes, Index inner,
               Index count),
              (x, target, weight, softmax, upstream, dx, smoothing, even, total_weight, total, each, classes, inner, count))
