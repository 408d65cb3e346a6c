// Samples of maps between pixels, added up in a fixed order: they are sorted by the cell they lie in, and each pixel
// collects from the four cells around it. Sorting is by digits, and stable: samples of a cell keep their order.
#include "kernel.cuh"

// Samples that a block handles, in rounds of one for each thread; `TILE` of the launching side.
#define TILE 1024
#define DIGITS 16
#define WARPS (THREADS / 32)
#define ALL 0xffffffffu

// How many keys of each tile have each digit: `counts[digit, tile]`.
template <typename T>
__device__ void samples_count(const Index* keys, Index* counts, Index shift, Index count) {
    __shared__ Index digits[DIGITS];
    if (threadIdx.x < DIGITS) digits[threadIdx.x] = 0;
    __syncthreads();
    for (Index i = blockIdx.x * TILE + threadIdx.x; i < min(count, (blockIdx.x + 1) * TILE); i += THREADS)
        atomicAdd(&digits[keys[i] >> shift & (DIGITS - 1)], 1u);
    __syncthreads();
    if (threadIdx.x < DIGITS) counts[threadIdx.x * gridDim.x + blockIdx.x] = digits[threadIdx.x];
}

// Replaces each of `count` numbers by the sum of those before it. For one block.
template <typename T>
__device__ void samples_scan(Index* numbers, Index count) {
    __shared__ Index sums[THREADS];
    Index each = (count + THREADS - 1) / THREADS;
    Index first = min(count, threadIdx.x * each), end = min(count, first + each);
    Index sum = 0;
    for (Index i = first; i < end; ++i) sum += numbers[i];
    sums[threadIdx.x] = sum;
    __syncthreads();
    for (Index back = 1; back < THREADS; back *= 2) {
        Index before = threadIdx.x >= back ? sums[threadIdx.x - back] : 0;
        __syncthreads();
        sums[threadIdx.x] += before;
        __syncthreads();
    }
    sum = sums[threadIdx.x] - sum;
    for (Index i = first; i < end; ++i) {
        Index number = numbers[i];
        numbers[i] = sum;
        sum += number;
    }
}

// Moves keys and the samples they belong to behind those with lower digits. `order` may be missing: samples are in
// order then. `starts[digit, tile]` is where those of a tile go.
template <typename T>
__device__ void samples_scatter(const Index* keys, const Index* order, const Index* starts, Index* keys_out,
                                Index* order_out, Index shift, Index count) {
    __shared__ Index next[DIGITS], places[WARPS * DIGITS];
    Index lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    if (threadIdx.x < DIGITS) next[threadIdx.x] = starts[threadIdx.x * gridDim.x + blockIdx.x];
    for (Index round = 0; round < TILE / THREADS; ++round) {
        Index i = blockIdx.x * TILE + round * THREADS + threadIdx.x;
        bool valid = i < count;
        Index key = valid ? keys[i] : 0, digit = key >> shift & (DIGITS - 1);
        unsigned same = __ballot_sync(ALL, valid);
        for (Index bit = 1; bit < DIGITS; bit *= 2) {
            unsigned set = __ballot_sync(ALL, (digit & bit) != 0);
            same &= digit & bit ? set : ~set;
        }
        Index rank = __popc(same & ((1u << lane) - 1));
        if (threadIdx.x < WARPS * DIGITS) places[threadIdx.x] = 0;
        __syncthreads();
        if (valid && rank == 0) places[warp * DIGITS + digit] = __popc(same);
        __syncthreads();
        if (threadIdx.x < DIGITS) {
            Index at = next[threadIdx.x];
            for (Index w = 0; w < WARPS; ++w) {
                Index number = places[w * DIGITS + threadIdx.x];
                places[w * DIGITS + threadIdx.x] = at;
                at += number;
            }
            next[threadIdx.x] = at;
        }
        __syncthreads();
        if (valid) {
            Index to = places[warp * DIGITS + digit] + rank;
            keys_out[to] = key;
            order_out[to] = order ? order[i] : i;
        }
        __syncthreads();
    }
}

// Where the samples of each of `cells` cells start, and one more entry.
template <typename T>
__device__ void samples_starts(const Index* keys, Index* starts, Index samples, Index cells) {
    FOR_EACH(cell, cells + 1) {
        Index low = 0, high = samples;
        while (low < high) {
            Index middle = low + (high - low) / 2;
            if (keys[middle] < cell) low = middle + 1;
            else high = middle;
        }
        starts[cell] = low;
    }
}

// Each element of a map adds up values of samples times weights, four for each sample, over the cells around its pixel.
//
// The channels of the map fall into `shared` groups with samples of their own: sample `s` belongs to group
// `s % shared`. Its values are row `s / shared / each` of `rows` rows, in one matrix for every `group_in` channels.
template <typename T>
__device__ void samples_gather(const T* values, const T* weights, const Index* order, const Index* starts, T* out,
                               Index height, Index width, Index channels, Index shared, Index group_in, Index rows,
                               Index each, Index count) {
    FOR_EACH(i, count) {
        Index c = i % channels, rest = i / channels;
        Index x = rest % width;
        rest /= width;
        Index y = rest % height, image = rest / height * shared + c / (channels / shared);
        const T* value = values + c / group_in * rows * group_in + c % group_in;
        Index far = (image * (height + 1) + y) * (width + 1) + x;
        T sum = 0;
        for (int corner = 0; corner < 4; ++corner) {
            // The cell that has this pixel at the corner.
            Index cell = far + (corner < 2 ? width + 1 : 0) + (corner % 2 == 0 ? 1 : 0);
            for (Index k = starts[cell], end = starts[cell + 1]; k < end; ++k) {
                Index sample = order[k];
                sum += value[sample / shared / each * group_in] * weights[4 * sample + corner];
            }
        }
        out[i] = sum;
    }
}

EXPORT_FLOATS(samples_count, (const Index* keys, Index* counts, Index shift, Index count),
              (keys, counts, shift, count))
EXPORT_FLOATS(samples_scan, (Index* numbers, Index count), (numbers, count))
EXPORT_FLOATS(samples_scatter,
              (const Index* keys, const Index* order, const Index* starts, Index* keys_out, Index* order_out,
               Index shift, Index count),
              (keys, order, starts, keys_out, order_out, shift, count))
EXPORT_FLOATS(samples_starts, (const Index* keys, Index* starts, Index samples, Index cells),
              (keys, starts, samples, cells))
EXPORT_FLOATS(samples_gather,
              (const T* values, const T* weights, const Index* order, const Index* starts, T* out, Index height,
               Index width, Index channels, Index shared, Index group_in, Index rows, Index each, Index count),
              (values, weights, order, starts, out, height, width, channels, shared, group_in, rows, each, count))
