// What all kernels use: conversions, sums and scans over a warp or a block.
//
// The device code includes nothing of the host's headers, so that nvcc, a run-time compiler (NVRTC) and the CPU
// emulation of the tests take it as it is.
#pragma once

#include "../dtype.h"

#if !defined(DREAM_EMULATION)
#define DREAM_DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#endif

namespace dream_accel {
namespace cuda {

constexpr int WARP = 32;
constexpr unsigned ALL_LANES = 0xffffffffu;

__device__ __forceinline__ int lane() { return threadIdx.x % WARP; }
__device__ __forceinline__ int warp() { return threadIdx.x / WARP; }

#if !defined(DREAM_EMULATION)
__device__ __forceinline__ float half_to_float(unsigned short bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}

__device__ __forceinline__ unsigned short float_to_half(float value) {
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}
#endif

__device__ __forceinline__ float to_float(float value) { return value; }
__device__ __forceinline__ float to_float(Float16 value) { return half_to_float(value.bits); }
__device__ __forceinline__ float to_float(BFloat16 value) {
    return __uint_as_float(static_cast<unsigned>(value.bits) << 16);
}

// Rounds to the nearest value, to the even one of two.
__device__ __forceinline__ void store(float* to, float value) { *to = value; }
__device__ __forceinline__ void store(Float16* to, float value) { to->bits = float_to_half(value); }
__device__ __forceinline__ void store(BFloat16* to, float value) {
    const unsigned bits = __float_as_uint(value);
    const bool is_nan = value != value;
    to->bits = static_cast<unsigned short>(is_nan ? 0x7fc0u : (bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

// Calls fn with a null pointer whose type is the stored type of dtype. All threads take the same branch.
template <class Fn>
__device__ __forceinline__ void with_type(Dtype dtype, Fn fn) {
    if (dtype == Dtype::float32) {
        fn(static_cast<const float*>(nullptr));
    } else if (dtype == Dtype::float16) {
        fn(static_cast<const Float16*>(nullptr));
    } else {
        fn(static_cast<const BFloat16*>(nullptr));
    }
}

// T of a pointer to const T.
template <class Pointer>
struct StoredType;
template <class T>
struct StoredType<const T*> {
    using type = T;
};
template <class Pointer>
using stored_type = typename StoredType<Pointer>::type;

template <class T>
__device__ __forceinline__ const T* typed(const void* pointer, const T*) {
    return static_cast<const T*>(pointer);
}

__device__ __forceinline__ bool finite(float value) { return value - value == 0.0f; }

// Sum over groups of `lanes` neighbouring lanes, for each of them; `lanes` is a power of two.
template <class T>
__device__ __forceinline__ T lanes_sum(T value, int lanes) {
    for (int step = lanes / 2; step > 0; step /= 2) value += __shfl_xor_sync(ALL_LANES, value, step);
    return value;
}

// Smallest value of the warp, for every lane.
__device__ __forceinline__ unsigned long long warp_min(unsigned long long value) {
    for (int step = WARP / 2; step > 0; step /= 2) {
        const unsigned long long other = __shfl_xor_sync(ALL_LANES, value, step);
        value = other < value ? other : value;
    }
    return value;
}

// Smallest value of the block, for every thread. All threads must call it.
__device__ inline unsigned long long block_min(unsigned long long value) {
    __shared__ unsigned long long of_warp[WARP];
    value = warp_min(value);
    if (lane() == 0) of_warp[warp()] = value;
    __syncthreads();
    value = of_warp[0];
    for (int w = 1; w < static_cast<int>(blockDim.x) / WARP; ++w) value = of_warp[w] < value ? of_warp[w] : value;
    __syncthreads();  // of_warp may be written again
    return value;
}

// Sum of the values of the threads before this one; total is that of all. All threads must call it.
__device__ inline int block_exclusive_scan(int value, int& total) {
    __shared__ int of_warp[WARP];
    int running = value;
    for (int step = 1; step < WARP; step *= 2) {
        const int below = __shfl_up_sync(ALL_LANES, running, step);
        if (lane() >= step) running += below;
    }
    if (lane() == WARP - 1) of_warp[warp()] = running;
    __syncthreads();
    int before = 0;
    total = 0;
    for (int w = 0; w < static_cast<int>(blockDim.x) / WARP; ++w) {
        if (w < warp()) before += of_warp[w];
        total += of_warp[w];
    }
    __syncthreads();  // of_warp may be written again
    return before + running - value;
}

// A key that orders (distance, row) pairs as unsigned integers: nearest first, then the lower row. NaN comes last.
__device__ __forceinline__ unsigned long long order_key(float distance, int row) {
    const unsigned bits = __float_as_uint(distance + 0.0f);  // of the two zeros one
    const unsigned ordered = bits >> 31 ? ~bits : bits | 0x80000000u;
    const unsigned high = distance != distance ? 0xffffffffu : ordered;
    return static_cast<unsigned long long>(high) << 32 | static_cast<unsigned>(row);
}

// The same, farthest first.
__device__ __forceinline__ unsigned long long farthest_key(float distance, int row) {
    return order_key(-distance, row);
}

__device__ __forceinline__ int row_of(unsigned long long key) { return static_cast<int>(key & 0xffffffffu); }

// Larger than every key: rows are below 2^31.
constexpr unsigned long long NO_KEY = 0xffffffffffffffffull;

// The group a row belongs to: the last g with offsets[g] <= row.
__device__ __forceinline__ long long group_of(const long long* offsets, long long G, long long row) {
    long long low = 0, high = G - 1;
    while (low < high) {
        const long long middle = (low + high + 1) / 2;
        if (offsets[middle] <= row) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    return low;
}

}  // namespace cuda
}  // namespace dream_accel
