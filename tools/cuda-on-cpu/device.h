// What a kernel finds around itself when a C++ compiler builds it for the processor. Included before every `.cu`.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector_types.h>

#ifndef __global__
#define __global__
#endif
#undef __device__
#undef __host__
#undef __shared__
#undef __forceinline__
#undef __launch_bounds__
#undef __constant__
#define __device__
#define __host__
#define __constant__
#define __shared__ static
#define __forceinline__ inline
#define __launch_bounds__(...)

// Set before a thread of a kernel runs; one thread runs at a time.
extern "C" {
extern uint3 cpu_thread, cpu_block;
extern dim3 cpu_block_dim, cpu_grid_dim;
// Lets every other thread of the block come to the same place.
void cpu_barrier(void);
// The same among the lanes of a warp that `mask` names.
void cpu_warp_barrier(unsigned mask);
// A place of 16 bytes for each thread of the block, for exchanges within a warp.
void* cpu_slot(unsigned thread);
void cpu_register(const char* library, const char* name, void (*run)(void**));
}
#define threadIdx cpu_thread
#define blockIdx cpu_block
#define blockDim cpu_block_dim
#define gridDim cpu_grid_dim

inline void __syncthreads() { cpu_barrier(); }
inline void __syncwarp(unsigned mask = 0xffffffffu) { cpu_warp_barrier(mask); }
inline void __threadfence() {}

template <typename T>
T cpu_exchange(unsigned mask, T value, unsigned from) {
    static_assert(sizeof(T) <= 16, "no room");
    std::memcpy(cpu_slot(threadIdx.x), &value, sizeof(T));
    cpu_warp_barrier(mask);
    T got;
    std::memcpy(&got, cpu_slot(from < blockDim.x ? from : threadIdx.x), sizeof(T));
    cpu_warp_barrier(mask);
    return got;
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int = 32) { return cpu_exchange(mask, value, threadIdx.x ^ lanes); }
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int = 32) {
    return cpu_exchange(mask, value, threadIdx.x % 32 + delta < 32 ? threadIdx.x + delta : threadIdx.x);
}
template <typename T>
T __shfl_sync(unsigned mask, T value, int lane, int = 32) { return cpu_exchange(mask, value, threadIdx.x / 32 * 32 + lane); }
inline unsigned __ballot_sync(unsigned mask, bool value) {
    unsigned all = 0;
    for (unsigned lane = 0; lane < 32; ++lane) all |= unsigned(cpu_exchange(mask, value, threadIdx.x / 32 * 32 + lane)) << lane;
    return all;
}

template <typename T, typename U>
T atomicAdd(T* at, U value) { T old = *at; *at = old + T(value); return old; }
template <typename T, typename U>
T atomicMax(T* at, U value) { T old = *at; *at = std::max(old, T(value)); return old; }
template <typename T, typename U>
T atomicMin(T* at, U value) { T old = *at; *at = std::min(old, T(value)); return old; }
template <typename T, typename U>
T atomicOr(T* at, U value) { T old = *at; *at = old | T(value); return old; }
template <typename T>
T __ldg(const T* at) { return *at; }

template <typename A, typename B, typename C = std::common_type_t<A, B>,
          typename = std::enable_if_t<std::is_arithmetic<A>::value && std::is_arithmetic<B>::value>>
C min(A a, B b) { return C(b) < C(a) ? C(b) : C(a); }
template <typename A, typename B, typename C = std::common_type_t<A, B>,
          typename = std::enable_if_t<std::is_arithmetic<A>::value && std::is_arithmetic<B>::value>>
C max(A a, B b) { return C(a) < C(b) ? C(b) : C(a); }
inline float rsqrt(float x) { return 1.0f / std::sqrt(x); }
inline double rsqrt(double x) { return 1.0 / std::sqrt(x); }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned((uint64_t(a) * b) >> 32); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline float normcdff(float x) { return 0.5f * std::erfc(-x * 0.70710678f); }
inline double normcdf(double x) { return 0.5 * std::erfc(-x * 0.7071067811865476); }
// Unqualified names mean the overloads by type, as in CUDA.
using std::abs; using std::ceil; using std::cos; using std::erf; using std::exp; using std::fabs; using std::floor;
using std::fma; using std::fmax; using std::fmin; using std::isfinite; using std::isinf; using std::isnan;
using std::log; using std::log1p; using std::nearbyint; using std::pow; using std::rint; using std::round;
using std::signbit; using std::sin; using std::sqrt; using std::tanh; using std::trunc;

template <typename T, typename U, typename V>
T atomicCAS(T* at, U expected, V value) { T old = *at; if (old == T(expected)) *at = T(value); return old; }
inline long long __double_as_longlong(double x) { long long y; std::memcpy(&y, &x, 8); return y; }
inline double __longlong_as_double(long long x) { double y; std::memcpy(&y, &x, 8); return y; }
inline unsigned __float_as_uint(float x) { unsigned y; std::memcpy(&y, &x, 4); return y; }
inline int __float_as_int(float x) { int y; std::memcpy(&y, &x, 4); return y; }
inline float __uint_as_float(unsigned x) { float y; std::memcpy(&y, &x, 4); return y; }
inline float __int_as_float(int x) { float y; std::memcpy(&y, &x, 4); return y; }

// Calls a kernel with arguments by address, as the driver gets them.
template <typename... A, size_t... I>
void cpu_call(void (*kernel)(A...), void** args, std::index_sequence<I...>) {
    kernel(*static_cast<std::remove_reference_t<A>*>(args[I])...);
}
template <typename... A>
void cpu_call(void (*kernel)(A...), void** args) { cpu_call(kernel, args, std::index_sequence_for<A...>()); }
#define CPU_REGISTER(LIBRARY, NAME) \
    static int cpu_registered_##NAME = (cpu_register(LIBRARY, #NAME, [](void** args) { cpu_call(NAME, args); }), 0);
