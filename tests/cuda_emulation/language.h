// As much of CUDA C++ as the kernels use, for an ordinary C++ compiler: device code becomes functions that run on the
// CPU, one fiber per thread of a block. Included before the device code.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#define DREAM_EMULATION
#define DREAM_DYNAMIC_SHARED(name) unsigned char* name = emulation::dynamic_shared()

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)
// All threads of a block live in one thread of the host, and blocks run one after another.
#define __shared__ static
#define __syncthreads() emulation::sync_block(__FILE__, __LINE__)

struct uint3 {
    unsigned x, y, z;
};
using dim3 = uint3;
struct alignas(16) float4 {
    float x, y, z, w;
};

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

namespace emulation {

// Waits until every thread of the block that has not returned is here. Stops the launch where some wait elsewhere.
void sync_block(const char* file, int line);

// Waits until every lane of the warp has given its value; all[lane] is what each gave.
void exchange(unsigned mask, uint64_t value, uint64_t* all);

unsigned char* dynamic_shared();

template <class T>
T exchange(unsigned mask, T value, int from) {
    static_assert(sizeof(T) <= 8, "a shuffle moves 4 or 8 bytes");
    uint64_t bits = 0, all[32];
    std::memcpy(&bits, &value, sizeof(T));
    exchange(mask, bits, all);
    std::memcpy(&value, &all[from], sizeof(T));
    return value;
}

inline int lane() { return static_cast<int>(threadIdx.x % 32); }

template <class T, class U>
T bits_as(U value) {
    static_assert(sizeof(T) == sizeof(U), "only the type changes");
    T result;
    std::memcpy(&result, &value, sizeof(T));
    return result;
}

}  // namespace emulation

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int step) {
    return emulation::exchange(mask, value, emulation::lane() ^ step);
}

template <class T>
T __shfl_up_sync(unsigned mask, T value, int step) {
    const int from = emulation::lane() - step;
    return emulation::exchange(mask, value, from < 0 ? emulation::lane() : from);
}

inline unsigned __match_any_sync(unsigned mask, int value) {
    uint64_t all[32];
    emulation::exchange(mask, static_cast<uint32_t>(value), all);
    unsigned result = 0;
    for (int i = 0; i < 32; ++i) result |= (all[i] == static_cast<uint32_t>(value) ? 1u : 0u) << i;
    return result;
}

inline void __syncwarp() {
    uint64_t all[32];
    emulation::exchange(0xffffffffu, 0, all);
}

inline void __threadfence() {}

inline int atomicAdd(int* at, int value) {
    const int before = *at;
    *at += value;
    return before;
}

inline unsigned atomicInc(unsigned* at, unsigned limit) {
    const unsigned before = *at;
    *at = before >= limit ? 0 : before + 1;
    return before;
}

template <class T>
T __ldcg(const T* at) {
    return *at;
}

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline float __uint_as_float(unsigned bits) { return emulation::bits_as<float>(bits); }
inline unsigned __float_as_uint(float value) { return emulation::bits_as<unsigned>(value); }

inline float half_to_float(unsigned short half) {
    const unsigned sign = (half & 0x8000u) << 16, exponent = half >> 10 & 0x1fu, fraction = half & 0x3ffu;
    if (exponent == 0x1f) return __uint_as_float(sign | 0x7f800000u | fraction << 13);
    if (exponent == 0) return (sign ? -1.0f : 1.0f) * std::ldexp(static_cast<float>(fraction), -24);
    return __uint_as_float(sign | (exponent + 112) << 23 | fraction << 13);
}

// Rounds to the nearest, to the even one of two, as the hardware does.
inline unsigned short float_to_half(float value) {
    const unsigned sign = __float_as_uint(value) >> 16 & 0x8000u;
    if (value != value) return static_cast<unsigned short>(sign | 0x7fffu);
    const float size = std::fabs(value);
    if (size >= 65520.0f) return static_cast<unsigned short>(sign | 0x7c00u);
    if (size < 0x1p-14f)
        return static_cast<unsigned short>(sign | static_cast<unsigned>(std::nearbyint(size * 0x1p24f)));
    const unsigned bits = __float_as_uint(size) - (112u << 23);
    return static_cast<unsigned short>(sign | (bits + 0xfffu + (bits >> 13 & 1)) >> 13);
}
