// Greedy suppression: bits say which later boxes each box would remove, and one block walks through them from the best
// box on. Boxes are counted by rank, best first.
#include "kernel.cuh"

// Boxes that the walk settles together; their bits are two words.
#define TILE 64

template <typename T>
struct Box { T x1, y1, x2, y2, area; };

template <typename T>
__device__ Box<T> load(const T* box, T margin) {
    T area = rounded_product(box[2] - box[0] + margin, box[3] - box[1] + margin);
    return Box<T>{box[0], box[1], box[2], box[3], area};
}

// Whether `a` removes `b`. The comparisons are those of the host, which decide what NaN does, and so is the order of
// the arithmetic, which decides at the threshold.
template <typename T>
__device__ bool removes(const Box<T>& a, const Box<T>& b, T margin, T threshold) {
    T left = a.x1 < b.x1 ? b.x1 : a.x1, top = a.y1 < b.y1 ? b.y1 : a.y1;
    T right = b.x2 < a.x2 ? b.x2 : a.x2, bottom = b.y2 < a.y2 ? b.y2 : a.y2;
    T w = right - left + margin, h = bottom - top + margin;
    w = w > T(0) ? w : T(0);
    h = h > T(0) ? h : T(0);
    T intersection = rounded_product(w, h);
    return intersection / (a.area + b.area - intersection) > threshold;
}

// The bits of boxes `first .. first + rows`, a thread for each, in the columns of tile `blockIdx.x`. Words of tiles before
// that of a box stay as they are. `classes` may be missing: all boxes are of one.
template <typename T>
__device__ void nms_bits(const T* boxes, const Index* order, const Index* classes, Index* bits, Index first, Index rows,
                         Index count, T margin, T threshold) {
    __shared__ Box<T> others[TILE];
    __shared__ Index other_classes[TILE];
    Index start = blockIdx.x * TILE, own = blockIdx.y * THREADS + threadIdx.x;
    if (start + TILE <= first + blockIdx.y * THREADS) return;
    Index size = count - start < TILE ? count - start : TILE;
    if (threadIdx.x < size) {
        others[threadIdx.x] = load(boxes + order[start + threadIdx.x] * 4, margin);
        other_classes[threadIdx.x] = classes ? classes[start + threadIdx.x] : 0;
    }
    __syncthreads();
    if (own >= rows) return;
    Index rank = first + own, own_class = classes ? classes[rank] : 0;
    Box<T> box = load(boxes + order[rank] * 4, margin);
    Index words[2] = {0, 0};
    for (Index i = rank < start ? 0 : rank - start + 1; i < size; ++i)
        if (other_classes[i] == own_class && removes(box, others[i], margin, threshold)) words[i / 32] |= 1u << i % 32;
    Index* to = bits + own * (2 * gridDim.x) + 2 * blockIdx.x;
    to[0] = words[0];
    to[1] = words[1];
}

// Settles boxes `first .. first + rows`, `first` being a multiple of TILE, with what earlier walks left in `removed`, the
// bits of all boxes, and `kept`, the number of rows in `keep`. For one block.
template <typename T>
__device__ void nms_walk(const Index* bits, const Index* order, Index* removed, Index* keep, Index* kept, Index first,
                         Index rows, Index count) {
    __shared__ Index among[2 * TILE];
    __shared__ unsigned long long winners;
    __shared__ Index total;
    Index words = (count + TILE - 1) / TILE * 2;
    if (threadIdx.x == 0) total = *kept;
    for (Index start = 0; start < rows; start += TILE) {
        Index size = rows - start < TILE ? rows - start : TILE, word = (first + start) / TILE * 2;
        const Index* lines = bits + start * words;
        if (threadIdx.x < 2 * size) among[threadIdx.x] = lines[threadIdx.x / 2 * words + word + threadIdx.x % 2];
        __syncthreads();
        if (threadIdx.x == 0) {
            unsigned long long gone = removed[word] | (unsigned long long)removed[word + 1] << 32, won = 0;
            for (Index i = 0; i < size; ++i) {
                if (gone >> i & 1) continue;
                won |= 1ull << i;
                gone |= among[2 * i] | (unsigned long long)among[2 * i + 1] << 32;
            }
            winners = won;
        }
        __syncthreads();
        unsigned long long won = winners;
        if (threadIdx.x < size && won >> threadIdx.x & 1)
            keep[total + __popcll(won & ((1ull << threadIdx.x) - 1))] = order[first + start + threadIdx.x];
        for (Index w = word + 2 + threadIdx.x; w < words; w += THREADS) {
            Index gone = removed[w];
            for (unsigned long long rest = won; rest; rest &= rest - 1) gone |= lines[(__ffsll(rest) - 1) * words + w];
            removed[w] = gone;
        }
        __syncthreads();
        if (threadIdx.x == 0) total += __popcll(won);
    }
    if (threadIdx.x == 0) *kept = total;
}

EXPORT_FLOATS(nms_bits,
              (const T* boxes, const Index* order, const Index* classes, Index* bits, Index first, Index rows,
               Index count, T margin, T threshold),
              (boxes, order, classes, bits, first, rows, count, margin, threshold))
EXPORT_FLOATS(nms_walk,
              (const Index* bits, const Index* order, Index* removed, Index* keep, Index* kept, Index first, Index rows,
               Index count),
              (bits, order, removed, keep, kept, first, rows, count))
