// Softmax over the rows of a bank, of which a matrix product makes the logits tile by tile.
#include "kernel.cuh"

// Logits of one block, `SEGMENT` of the launching side; tiles but the last are multiples of it.
#define SEGMENT 4096

// Maximum and sum of exponentials of a segment of a tile of logits `(B, columns)` that starts at row `first` of the
// bank: `tops[b, part]`, `sums[b, part]`. The segment with the target writes its logit to `hits[b]`.
template <typename T>
__device__ void bank_softmax(const T* logits, const Index* target, T* tops, double* sums, T* hits, Index columns,
                             Index first, Index parts, T scale) {
    __shared__ T largest[THREADS];
    __shared__ double shared[THREADS];
    Index b = blockIdx.x, start = blockIdx.y * SEGMENT;
    Index end = columns - start < SEGMENT ? columns : start + SEGMENT, y = target[b];
    logits += b * columns;
    T top = T(-INFINITY);
    for (Index i = start + threadIdx.x; i < end; i += THREADS) {
        T x = logits[i] * scale;
        if (x > top) top = x;
        if (first + i == y) hits[b] = x;
    }
    top = block_max(top, largest);
    // In double, since a bank may have millions of rows.
    double sum = 0;
    for (Index i = start + threadIdx.x; i < end; i += THREADS) sum += double(exp(logits[i] * scale - top));
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) {
        Index part = first / SEGMENT + blockIdx.y;
        tops[b * parts + part] = top;
        sums[b * parts + part] = sum;
    }
}

// The loss of feature `blockIdx.x`, and its maximum and sum over all parts in the places of the first part.
template <typename T>
__device__ void bank_loss(T* tops, double* sums, const T* hits, T* losses, Index parts) {
    __shared__ T largest[THREADS];
    __shared__ double shared[THREADS];
    Index b = blockIdx.x;
    tops += b * parts;
    sums += b * parts;
    T top = T(-INFINITY);
    FOR_EACH_IN_BLOCK(i, parts) if (tops[i] > top) top = tops[i];
    top = block_max(top, largest);
    double sum = 0;
    FOR_EACH_IN_BLOCK(i, parts) sum += sums[i] * exp(double(tops[i]) - double(top));
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) {
        losses[b] = T(log(sum) + (double(top) - double(hits[b])));
        tops[0] = top;
        sums[0] = sum;
    }
}

// Turns a tile of logits into probabilities, less one at the target.
template <typename T>
__device__ void bank_pull(T* logits, const Index* target, const T* tops, const double* sums, Index count, Index columns,
                          Index first, Index parts, T scale) {
    FOR_EACH(i, count) {
        Index b = i / columns;
        T p = exp(logits[i] * scale - tops[b * parts]) * T(1 / sums[b * parts]);
        logits[i] = first + i % columns == target[b] ? p - T(1) : p;
    }
}

// Times the gradient of the loss.
template <typename T>
__device__ void bank_scale(T* df, const T* g, Index count, Index width, T scale) {
    FOR_EACH(i, count) df[i] *= g[i / width] * scale;
}

EXPORT_FLOATS(bank_softmax,
              (const T* logits, const Index* target, T* tops, double* sums, T* hits, Index columns, Index first,
               Index parts, T scale),
              (logits, target, tops, sums, hits, columns, first, parts, scale))
EXPORT_FLOATS(bank_loss, (T* tops, double* sums, const T* hits, T* losses, Index parts),
              (tops, sums, hits, losses, parts))
EXPORT_FLOATS(bank_pull,
              (T* logits, const Index* target, const T* tops, const double* sums, Index count, Index columns,
               Index first, Index parts, T scale),
              (logits, target, tops, sums, count, columns, first, parts, scale))
EXPORT_FLOATS(bank_scale, (T* df, const T* g, Index count, Index width, T scale), (df, g, count, width, scale))
