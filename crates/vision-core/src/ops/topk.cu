// The best elements of rows: a selection digit by digit, then a ranking of what was selected.
#include "kernel.cuh"

// Numbers as integers of the same order. Both zeros are one number.
__device__ __forceinline__ unsigned key_of(float x) {
    unsigned bits = x == 0.0f ? 0u : __float_as_uint(x);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ unsigned long long key_of(double x) {
    unsigned long long bits = x == 0.0 ? 0ull : (unsigned long long)__double_as_longlong(x);
    return bits >> 63 ? ~bits : bits | 0x8000000000000000ull;
}
template <typename T>
struct KeyOf;
template <>
struct KeyOf<float> { typedef unsigned Key; };
template <>
struct KeyOf<double> { typedef unsigned long long Key; };

// The larger the better.
template <typename T>
__device__ __forceinline__ typename KeyOf<T>::Key rating(T x, int largest) {
    typename KeyOf<T>::Key key = key_of(x);
    return largest ? key : ~key;
}

// `first` becomes the first position that holds NaN, if there is one.
template <typename T>
__device__ void topk_nan(const T* x, Index* first, Index count) {
    FOR_EACH(i, count) if (x[i] != x[i]) atomicMin(first, i);
}

// The `k` best of part `blockIdx.y` of row `blockIdx.x`, in any order; parts have at least `k` elements.
// Elements are numbered by `ids` or, without it, from `first_id` on; of equal ones the smaller number is better, so no
// two are equally good and the set that is selected does not depend on the order of threads.
//
// Rating and inverted number, as one number, are searched from the top, eight bits at a time, for the worst one
// that is selected.
template <typename T>
__device__ void topk_select(const T* x, const Index* ids, T* best, Index* best_ids, Index len, Index k, Index first_id,
                            int largest) {
    typedef typename KeyOf<T>::Key Key;
    __shared__ Index histogram[256], sums[256];
    __shared__ Index digit, needed, bucket, taken;
    Index parts = gridDim.y, part = blockIdx.y;
    Index size = len / parts, longer = len % parts;
    Index start = part * size + (part < longer ? part : longer);
    if (part < longer) ++size;
    x += blockIdx.x * len;
    if (ids) ids += blockIdx.x * len;
    best += (blockIdx.x * parts + part) * k;
    best_ids += (blockIdx.x * parts + part) * k;
    Key wanted = 0, mask = 0;
    Index wanted_id = 0, mask_id = 0, missing = k;
    bool all = size == k;
    for (int shift = int(sizeof(Key)) * 8 + 24; shift >= 0 && !all; shift -= 8) {
        histogram[threadIdx.x] = 0;
        __syncthreads();
        for (Index i = start + threadIdx.x; i < start + size; i += blockDim.x) {
            Key key = rating(x[i], largest);
            Index id = ~(ids ? ids[i] : first_id + i);
            if ((key & mask) != wanted || (id & mask_id) != wanted_id) continue;
            atomicAdd(&histogram[shift >= 32 ? Index(key >> (shift - 32)) & 255u : id >> shift & 255u], 1u);
        }
        __syncthreads();
        // How many have this digit or a higher one.
        Index own = histogram[threadIdx.x];
        sums[threadIdx.x] = own;
        __syncthreads();
        for (Index step = 1; step < 256; step *= 2) {
            Index more = threadIdx.x + step < 256 ? sums[threadIdx.x + step] : 0;
            __syncthreads();
            sums[threadIdx.x] += more;
            __syncthreads();
        }
        Index higher = sums[threadIdx.x] - own;
        if (higher < missing && missing <= higher + own) {
            digit = threadIdx.x;
            needed = missing - higher;
            bucket = own;
        }
        __syncthreads();
        missing = needed;
        if (shift >= 32) {
            wanted |= Key(digit) << (shift - 32);
            mask |= Key(255) << (shift - 32);
        } else {
            wanted_id |= digit << shift;
            mask_id |= 255u << shift;
        }
        all = bucket == missing;
        __syncthreads();
    }
    if (threadIdx.x == 0) taken = 0;
    __syncthreads();
    for (Index i = start + threadIdx.x; i < start + size; i += blockDim.x) {
        Key key = rating(x[i], largest) & mask;
        Index id = ids ? ids[i] : first_id + i;
        if (key > wanted || (key == wanted && (~id & mask_id) >= wanted_id)) {
            Index slot = atomicAdd(&taken, 1u);
            best[slot] = x[i];
            best_ids[slot] = id;
        }
    }
}

// Rows of `k` elements in order: each counts those that are better.
template <typename T>
__device__ void topk_rank(const T* best, const Index* best_ids, T* values, Index* ids, Index count, Index k,
                          int largest) {
    FOR_EACH(i, count) {
        Index start = i / k * k, rank = 0, id = best_ids[i];
        typename KeyOf<T>::Key key = rating(best[i], largest);
        for (Index j = start; j < start + k; ++j) {
            typename KeyOf<T>::Key other = rating(best[j], largest);
            rank += other > key || (other == key && best_ids[j] < id);
        }
        values[start + rank] = best[i];
        ids[start + rank] = id;
    }
}

EXPORT_FLOATS(topk_nan, (const T* x, Index* first, Index count), (x, first, count))
EXPORT_FLOATS(topk_select,
              (const T* x, const Index* ids, T* best, Index* best_ids, Index len, Index k, Index first_id, int largest),
              (x, ids, best, best_ids, len, k, first_id, largest))
EXPORT_FLOATS(topk_rank,
              (const T* best, const Index* best_ids, T* values, Index* ids, Index count, Index k, int largest),
              (best, best_ids, values, ids, count, k, largest))
