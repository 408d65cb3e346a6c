// Dropout from a key: the words of Philox 4x32-10 in the order of `rng.rs`, so both devices drop the same elements.
#include "kernel.cuh"

// Blocks of a group, and words of a group.
#define LANES 8
#define GROUP (4 * LANES)

__device__ __forceinline__ void philox(Index counter[4], Index key0, Index key1) {
    for (int round = 0; round < 10; ++round) {
        Index high0 = __umulhi(0xD2511F53u, counter[0]), low0 = 0xD2511F53u * counter[0];
        Index high1 = __umulhi(0xCD9E8D57u, counter[2]), low1 = 0xCD9E8D57u * counter[2];
        counter[0] = high1 ^ counter[1] ^ key0;
        counter[1] = low1;
        counter[2] = high0 ^ counter[3] ^ key1;
        counter[3] = low0;
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
}

// Elements with a word below `threshold` become 0, the others are multiplied by `scale`. There are fewer than 2^31
// elements, so the upper half of a block's number is 0.
template <typename T>
__device__ void dropout(const T* x, T* y, T scale, Index threshold, Index key0, Index key1, Index domain, Index count) {
    FOR_EACH(i, count) {
        Index word = i % GROUP;
        Index counter[4] = {i / GROUP * LANES + word % LANES, 0, 0, domain};
        philox(counter, key0, key1);
        y[i] = x[i] * (counter[word / LANES] < threshold ? T(0) : scale);
    }
}

EXPORT_FLOATS(dropout,
              (const T* x, T* y, T scale, Index threshold, Index key0, Index key1, Index domain, Index count),
              (x, y, scale, threshold, key0, key1, domain, count))
