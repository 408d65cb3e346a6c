// Soft suppression by one block: a round takes the best box that is left, lowers the scores of the others together and
// closes the gaps of those that are dropped.
#include "kernel.cuh"

// Numbers of the methods, as the launching side gives them.
#define HARD 0
#define LINEAR 1

// Boxes by column. Those that are taken stand first, in order.
template <typename T>
struct Pool {
    T *x1, *y1, *x2, *y2, *area, *score;
    Index* row;

    __device__ Pool(T* columns, Index* rows, Index count) {
        x1 = columns;
        y1 = x1 + count;
        x2 = y1 + count;
        y2 = x2 + count;
        area = y2 + count;
        score = area + count;
        row = rows;
    }
    __device__ void copy(Index from, Index to) {
        x1[to] = x1[from];
        y1[to] = y1[from];
        x2[to] = x2[from];
        y2[to] = y2[from];
        area[to] = area[from];
        score[to] = score[from];
        row[to] = row[from];
    }
};

template <typename T>
__device__ __forceinline__ void exchange(T* x, Index a, Index b) {
    T kept = x[a];
    x[a] = x[b];
    x[b] = kept;
}

// Position of the first of the highest scores from `taken` on; every thread gets it. A NaN is only found at that
// position.
template <typename T>
__device__ Index best_of(const T* score, Index taken, Index size, T* tops, Index* places) {
    T top = score[taken];
    Index place = taken;
    for (Index i = taken + 1 + threadIdx.x; i < size; i += THREADS) {
        if (score[i] > top) {
            top = score[i];
            place = i;
        }
    }
    tops[threadIdx.x] = top;
    places[threadIdx.x] = place;
    __syncthreads();
    for (Index half = THREADS / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) {
            Index other = threadIdx.x + half;
            if (tops[other] > tops[threadIdx.x] ||
                (tops[other] == tops[threadIdx.x] && places[other] < places[threadIdx.x])) {
                tops[threadIdx.x] = tops[other];
                places[threadIdx.x] = places[other];
            }
        }
        __syncthreads();
    }
    return places[0];
}

// Lowers the score at `i` by the overlap with the box at `best`, in the arithmetic of the host, product by product.
// Returns whether the box is dropped.
template <typename T>
__device__ bool lower(Pool<T>& pool, Index best, Index i, Index method, T sigma, T threshold, T min_score, T margin) {
    T right = pool.x2[best] <= pool.x2[i] ? pool.x2[best] : pool.x2[i];
    T left = pool.x1[best] >= pool.x1[i] ? pool.x1[best] : pool.x1[i];
    T bottom = pool.y2[best] <= pool.y2[i] ? pool.y2[best] : pool.y2[i];
    T top = pool.y1[best] >= pool.y1[i] ? pool.y1[best] : pool.y1[i];
    T w = right - left + margin, h = bottom - top + margin;
    if (!(w > T(0) && h > T(0))) return false;
    T intersection = rounded_product(w, h);
    T overlap = intersection / (pool.area[best] + pool.area[i] - intersection), weight = T(1);
    if (method != HARD && method != LINEAR) weight = T(exp(double(-rounded_product(overlap, overlap) / sigma)));
    else if (overlap > threshold) weight = method == HARD ? T(0) : T(1) - overlap;
    T lowered = weight * pool.score[i];
    if (lowered < min_score) return true;
    pool.score[i] = lowered;
    return false;
}

// Lists the positions `first .. end` whose flag is `wanted`, in order; returns their number.
__device__ Index list(const Index* flags, Index wanted, Index first, Index end, Index* out, Index* sums) {
    Index each = (end - first + THREADS - 1) / THREADS;
    Index from = min(end, first + threadIdx.x * each), to = min(end, from + each), own = 0;
    for (Index i = from; i < to; ++i) own += flags[i] == wanted;
    sums[threadIdx.x] = own;
    __syncthreads();
    for (Index back = 1; back < THREADS; back *= 2) {
        Index before = threadIdx.x >= back ? sums[threadIdx.x - back] : 0;
        __syncthreads();
        sums[threadIdx.x] += before;
        __syncthreads();
    }
    Index at = sums[threadIdx.x] - own, total = sums[THREADS - 1];
    for (Index i = from; i < to; ++i)
        if (flags[i] == wanted) out[at++] = i;
    __syncthreads();
    return total;
}

// `columns` has room for six numbers of each box, `scratch` for three. What remains goes to `rows`, `boxes_out` and
// `scores_out`, its number to `left`.
template <typename T>
__device__ void soft_nms(const T* boxes, const T* scores, T* columns, Index* rows, Index* scratch, T* boxes_out,
                         T* scores_out, Index* left, Index count, Index method, T sigma, T threshold, T min_score,
                         T margin) {
    __shared__ T tops[THREADS];
    __shared__ Index places[THREADS];
    Pool<T> pool(columns, rows, count);
    Index *dropped = scratch, *gaps = scratch + count, *last = gaps + count;
    FOR_EACH_IN_BLOCK(i, count) {
        const T* box = boxes + i * 4;
        pool.x1[i] = box[0];
        pool.y1[i] = box[1];
        pool.x2[i] = box[2];
        pool.y2[i] = box[3];
        pool.area[i] = rounded_product(box[2] - box[0] + margin, box[3] - box[1] + margin);
        pool.score[i] = scores[i];
        pool.row[i] = i;
    }
    Index size = count;
    for (Index taken = 0; taken < size; ++taken) {
        __syncthreads();
        Index best = best_of(pool.score, taken, size, tops, places);
        if (threadIdx.x == 0) {
            exchange(pool.x1, taken, best);
            exchange(pool.y1, taken, best);
            exchange(pool.x2, taken, best);
            exchange(pool.y2, taken, best);
            exchange(pool.area, taken, best);
            exchange(pool.score, taken, best);
            exchange(pool.row, taken, best);
        }
        __syncthreads();
        Index own = 0;
        for (Index i = taken + 1 + threadIdx.x; i < size; i += THREADS) {
            dropped[i] = lower(pool, taken, i, method, sigma, threshold, min_score, margin);
            own += dropped[i];
        }
        Index gone = block_sum(own, places);
        if (gone == 0) continue;
        __syncthreads();
        // A dropped box is replaced by the last one, and that one in turn if it is dropped too: the gaps in their order
        // get the boxes that stay behind the new end, from the last one on.
        Index end = size - gone, number = list(dropped, 1, taken + 1, end, gaps, places);
        list(dropped, 0, end, size, last, places);
        FOR_EACH_IN_BLOCK(k, number) pool.copy(last[number - 1 - k], gaps[k]);
        size = end;
    }
    __syncthreads();
    FOR_EACH_IN_BLOCK(i, size) {
        T* box = boxes_out + i * 4;
        box[0] = pool.x1[i];
        box[1] = pool.y1[i];
        box[2] = pool.x2[i];
        box[3] = pool.y2[i];
        scores_out[i] = pool.score[i];
    }
    if (threadIdx.x == 0) *left = size;
}

EXPORT_FLOATS(soft_nms,
              (const T* boxes, const T* scores, T* columns, Index* rows, Index* scratch, T* boxes_out, T* scores_out,
               Index* left, Index count, Index method, T sigma, T threshold, T min_score, T margin),
              (boxes, scores, columns, rows, scratch, boxes_out, scores_out, left, count, method, sigma, threshold,
               min_score, margin))
