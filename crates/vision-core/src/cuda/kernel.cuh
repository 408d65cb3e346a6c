// What every kernel file includes: element types, indices, sums over a block.
#pragma once

// Tensors of a kernel have fewer than 2^32 elements; the launching side checks it. Products of 32 bits are
// several times cheaper than those of 64.
typedef unsigned int Index;

// Threads of a block wherever a kernel does not say otherwise; `cuda::THREADS` of the launching side.
#define THREADS 256

// The indices 0 .. count of the whole grid, each handed to one thread.
#define FOR_EACH(i, count) \
    for (Index i = blockIdx.x * blockDim.x + threadIdx.x; i < (count); i += blockDim.x * gridDim.x)

// The indices 0 .. count of one block, each handed to one thread.
#define FOR_EACH_IN_BLOCK(i, count) for (Index i = threadIdx.x; i < (count); i += blockDim.x)

// Exports the template `NAME` as `NAME_f32` and `NAME_f64`. `PARAMS` may use `T`.
#define EXPORT_FLOATS(NAME, PARAMS, ARGS) \
    namespace as_f32 { \
    typedef float T; \
    extern "C" __global__ void NAME##_f32 PARAMS { NAME<float> ARGS; } \
    } \
    namespace as_f64 { \
    typedef double T; \
    extern "C" __global__ void NAME##_f64 PARAMS { NAME<double> ARGS; } \
    }

// A product that is rounded before something is added to it, as on the processor: where the sum is compared or rounded
// down, the last bit matters.
__device__ __forceinline__ float rounded_product(float a, float b) {
#ifdef __CUDA_ARCH__
    return __fmul_rn(a, b);
#else
    return a * b;
#endif
}
__device__ __forceinline__ double rounded_product(double a, double b) {
#ifdef __CUDA_ARCH__
    return __dmul_rn(a, b);
#else
    return a * b;
#endif
}

template <typename T>
__device__ __forceinline__ T largest_finite();
template <>
__device__ __forceinline__ float largest_finite<float>() { return 3.402823466e+38f; }
template <>
__device__ __forceinline__ double largest_finite<double>() { return 1.7976931348623157e+308; }

// The sum of `value` over the threads of a block of THREADS, in a fixed order; every thread gets it.
// `shared` has THREADS elements and may be used again afterwards.
template <typename T>
__device__ T block_sum(T value, T* shared) {
    __syncthreads();
    shared[threadIdx.x] = value;
    __syncthreads();
    for (int half = THREADS / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
        __syncthreads();
    }
    return shared[0];
}

// The largest `value` over the threads of a block of THREADS; every thread gets it.
template <typename T>
__device__ T block_max(T value, T* shared) {
    __syncthreads();
    shared[threadIdx.x] = value;
    __syncthreads();
    for (int half = THREADS / 2; half > 0; half /= 2) {
        if (threadIdx.x < half && shared[threadIdx.x + half] > shared[threadIdx.x])
            shared[threadIdx.x] = shared[threadIdx.x + half];
        __syncthreads();
    }
    return shared[0];
}

// The sum of `value` over the lanes of a warp, in a fixed order; every lane gets it, all of them must come here.
template <typename T>
__device__ T warp_sum(T value) {
    for (int lanes = 16; lanes > 0; lanes /= 2) value += __shfl_xor_sync(0xffffffffu, value, lanes);
    return value;
}
