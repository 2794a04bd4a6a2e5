// Vectors of the instruction set a file is compiled for, through the vector extensions of GCC and Clang.
//
// Files that include this are compiled once per instruction set, each time under another namespace DREAM_ISA. They call
// no function of the C++ library: an inline one compiled here for AVX-512 could be the copy the linker keeps for
// everybody.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "../types.h"

#ifndef DREAM_ISA
#define DREAM_ISA baseline
#endif

#define DREAM_INLINE inline __attribute__((always_inline))

namespace dream_accel {
namespace DREAM_ISA {

#if defined(__AVX512F__)
constexpr int VECTOR_BYTES = 64;
#elif defined(__AVX2__)
constexpr int VECTOR_BYTES = 32;
#else
constexpr int VECTOR_BYTES = 16;
#endif
constexpr int W = VECTOR_BYTES / 4;  // floats in a vector

typedef float vf __attribute__((vector_size(VECTOR_BYTES)));
typedef int32_t vi __attribute__((vector_size(VECTOR_BYTES)));
typedef uint32_t vu __attribute__((vector_size(VECTOR_BYTES)));
typedef uint16_t vh __attribute__((vector_size(VECTOR_BYTES / 2)));
typedef double vd __attribute__((vector_size(VECTOR_BYTES)));  // W / 2 doubles
typedef float vf_half __attribute__((vector_size(VECTOR_BYTES / 2)));

// Subtracting zero keeps the sign of -0, so the compiler may drop it.
DREAM_INLINE vf broadcast(float value) { return value - vf{}; }
DREAM_INLINE vi broadcast(int32_t value) { return value - vi{}; }

template <class V, class T>
DREAM_INLINE V load_as(const T* source) {
    V value;
    __builtin_memcpy(&value, source, sizeof(V));
    return value;
}

template <class V, class T>
DREAM_INLINE void store_as(T* target, V value) {
    __builtin_memcpy(target, &value, sizeof(V));
}

// Loading W elements of a stored type as float.
DREAM_INLINE vf load(const float* source) { return load_as<vf>(source); }

DREAM_INLINE vf load(const BFloat16* source) {
    const vu wide = __builtin_convertvector(load_as<vh>(source), vu) << 16;
    return (vf)wide;
}

DREAM_INLINE vf load(const Float16* source) {
    const vu half = __builtin_convertvector(load_as<vh>(source), vu);
    const vu magnitude = (half & 0x7fffu) << 13;
    const vu exponent = half & 0x7c00u;
    // Rebias the exponent by 127 - 15; infinities and NaN need it twice. Subnormals are small integers times 2^-24.
    const vu rebias = exponent == 0x7c00u ? (vu)broadcast(int32_t(224 << 23)) : (vu)broadcast(int32_t(112 << 23));
    const vf subnormal = __builtin_convertvector((vi)(half & 0x3ffu), vf) * 0x1p-24f;
    const vu value = exponent == 0u ? (vu)subnormal : magnitude + rebias;
    return (vf)(value | ((half & 0x8000u) << 16));
}

template <class T>
DREAM_INLINE vf load_partial(const T* source, int n) {
    T buffer[W] = {};
    for (int i = 0; i < n; ++i) buffer[i] = source[i];
    return load(buffer);
}

// W elements at position i of n, zeros beyond the end.
template <class T>
DREAM_INLINE vf load_at(const T* source, int64_t i, int64_t n) {
    return i + W <= n ? load(source + i) : load_partial(source + i, static_cast<int>(n - i));
}

using every_lane = std::make_index_sequence<W>;

template <int STEP, class V, size_t... LANE>
DREAM_INLINE V exchange(V v, std::index_sequence<LANE...>) {
    return __builtin_shufflevector(v, v, (LANE ^ STEP)...);
}

template <class V, class Combine>
DREAM_INLINE V reduce_lanes(V v, Combine combine) {
    if constexpr (W >= 16) v = combine(v, exchange<8>(v, every_lane()));
    if constexpr (W >= 8) v = combine(v, exchange<4>(v, every_lane()));
    v = combine(v, exchange<2>(v, every_lane()));
    return combine(v, exchange<1>(v, every_lane()));
}

DREAM_INLINE float sum_lanes(vf v) {
    return reduce_lanes(v, [](vf a, vf b) { return a + b; })[0];
}

}  // namespace DREAM_ISA
}  // namespace dream_accel
