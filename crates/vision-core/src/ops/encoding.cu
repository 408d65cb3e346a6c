// Soft assignment of positions to codewords, and what its gradients need. Products of matrices come from cuBLAS.
#include "kernel.cuh"

// A warp has a position.
#define LANES 32
#define POSITIONS (THREADS / LANES)

// The largest `value` over the lanes of a warp; every lane gets it, all of them must come here.
template <typename T>
__device__ T warp_max(T value) {
    for (int lanes = LANES / 2; lanes > 0; lanes /= 2) {
        T other = __shfl_xor_sync(0xffffffffu, value, lanes);
        if (other > value) value = other;
    }
    return value;
}

// `out[i]`, the product of row `i % period` of `a` and row `i` of `b`, both of `width` elements; one block each.
template <typename T>
__device__ void encoding_dots(const T* a, const T* b, T* out, Index width, Index period) {
    __shared__ double shared[THREADS];
    a += blockIdx.x % period * width;
    b += blockIdx.x * width;
    double sum = 0;
    FOR_EACH_IN_BLOCK(i, width) sum += double(a[i]) * double(b[i]);
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) out[blockIdx.x] = T(sum);
}

// Turns the products of positions and codewords into assignments, and writes the squared lengths of the positions.
template <typename T>
__device__ void encoding_assign(const T* x, const T* lengths, const T* scale, T* scores, T* squares, Index rows,
                                Index width, Index codes, T factor) {
    Index row = blockIdx.x * POSITIONS + threadIdx.x / LANES, lane = threadIdx.x % LANES;
    if (row >= rows) return;
    x += row * width;
    scores += row * codes;
    T square = 0;
    for (Index i = lane; i < width; i += LANES) square += x[i] * x[i];
    square = warp_sum(square);
    T top = T(-INFINITY);
    for (Index k = lane; k < codes; k += LANES) {
        T distance = square - 2 * scores[k] + lengths[k];
        // Rounding may take it below.
        if (distance < 0) distance = 0;
        T score = scale[k] * factor * distance;
        scores[k] = score;
        if (score > top) top = score;
    }
    top = warp_max(top);
    T sum = 0;
    for (Index k = lane; k < codes; k += LANES) {
        T share = exp(scores[k] - top);
        scores[k] = share;
        sum += share;
    }
    sum = warp_sum(sum);
    for (Index k = lane; k < codes; k += LANES) scores[k] = scores[k] / sum;
    if (lane == 0) squares[row] = square;
}

// The sum of the assignments of code `blockIdx.x % codes` over the positions of picture `blockIdx.x / codes`.
template <typename T>
__device__ void encoding_mass(const T* shares, double* mass, Index positions, Index codes) {
    __shared__ double shared[THREADS];
    Index picture = blockIdx.x / codes, code = blockIdx.x % codes;
    shares += picture * positions * codes + code;
    double sum = 0;
    FOR_EACH_IN_BLOCK(i, positions) sum += double(shares[i * codes]);
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) mass[blockIdx.x] = sum;
}

// Takes the codewords' part from the sums of the features.
template <typename T>
__device__ void encoding_finish(const T* codewords, const double* mass, T* encoded, Index count, Index width,
                                Index codes) {
    FOR_EACH(i, count) {
        Index row = i / width;
        encoded[i] = T(double(encoded[i]) - mass[row] * double(codewords[row % codes * width + i % width]));
    }
}

// Turns the products of positions and upstream gradients into `q`, and writes `-2 q s` and twice the sum of `q s`.
template <typename T>
__device__ void encoding_pull(const T* shares, const T* offset, const T* scale, T* pulls, T* distant, T* own,
                              Index rows, Index positions, Index codes, T factor) {
    Index row = blockIdx.x * POSITIONS + threadIdx.x / LANES, lane = threadIdx.x % LANES;
    if (row >= rows) return;
    shares += row * codes;
    pulls += row * codes;
    distant += row * codes;
    offset += row / positions * codes;
    T mean = 0;
    for (Index k = lane; k < codes; k += LANES) mean += shares[k] * (pulls[k] - offset[k]);
    mean = warp_sum(mean);
    T sum = 0;
    for (Index k = lane; k < codes; k += LANES) {
        T q = shares[k] * (pulls[k] - offset[k] - mean);
        T scaled = q * scale[k] * factor;
        pulls[k] = q;
        distant[k] = -2 * scaled;
        sum += scaled;
    }
    sum = warp_sum(sum);
    if (lane == 0) own[row] = 2 * sum;
}

// Adds each position's own part to its gradient.
template <typename T>
__device__ void encoding_own(const T* x, const T* own, T* dx, Index count, Index width) {
    FOR_EACH(i, count) dx[i] += own[i / width] * x[i];
}

// Gradients of codeword and scale `blockIdx.x`, from `sums`, the products of all `q` and features.
template <typename T>
__device__ void encoding_codes(const T* q, const T* squares, const T* codewords, const T* scale, const T* sums,
                               const double* mass, const T* g, T* dc, T* ds, Index rows, Index batch, Index width,
                               Index codes, double factor) {
    __shared__ double shared[THREADS];
    Index code = blockIdx.x;
    codewords += code * width;
    sums += code * width;
    double pulled = 0, far = 0, cross = 0, length = 0;
    FOR_EACH_IN_BLOCK(i, rows) {
        double pull = double(q[i * codes + code]);
        pulled += pull;
        far += pull * double(squares[i]);
    }
    FOR_EACH_IN_BLOCK(i, width) {
        double c = double(codewords[i]);
        cross += c * double(sums[i]);
        length += c * c;
    }
    pulled = block_sum(pulled, shared);
    far = block_sum(far, shared);
    cross = block_sum(cross, shared);
    length = block_sum(length, shared);
    double twice = 2 * factor * double(scale[code]);
    FOR_EACH_IN_BLOCK(i, width) {
        double direct = 0;
        for (Index b = 0; b < batch; ++b) direct += mass[b * codes + code] * double(g[(b * codes + code) * width + i]);
        dc[code * width + i] = T(-direct - twice * (double(sums[i]) - pulled * double(codewords[i])));
    }
    if (threadIdx.x == 0) ds[code] = T(factor * (far - 2 * cross + length * pulled));
}

EXPORT_FLOATS(encoding_dots, (const T* a, const T* b, T* out, Index width, Index period), (a, b, out, width, period))
EXPORT_FLOATS(encoding_assign,
              (const T* x, const T* lengths, const T* scale, T* scores, T* squares, Index rows, Index width,
               Index codes, T factor),
              (x, lengths, scale, scores, squares, rows, width, codes, factor))
EXPORT_FLOATS(encoding_mass, (const T* shares, double* mass, Index positions, Index codes),
              (shares, mass, positions, codes))
EXPORT_FLOATS(encoding_finish,
              (const T* codewords, const double* mass, T* encoded, Index count, Index width, Index codes),
              (codewords, mass, encoded, count, width, codes))
EXPORT_FLOATS(encoding_pull,
              (const T* shares, const T* offset, const T* scale, T* pulls, T* distant, T* own, Index rows,
               Index positions, Index codes, T factor),
              (shares, offset, scale, pulls, distant, own, rows, positions, codes, factor))
EXPORT_FLOATS(encoding_own, (const T* x, const T* own, T* dx, Index count, Index width), (x, own, dx, count, width))
EXPORT_FLOATS(encoding_codes,
              (const T* q, const T* squares, const T* codewords, const T* scale, const T* sums, const double* mass,
               const T* g, T* dc, T* ds, Index rows, Index batch, Index width, Index codes, double factor),
              (q, squares, codewords, scale, sums, mass, g, dc, ds, rows, batch, width, codes, factor))
