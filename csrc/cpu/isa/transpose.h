// Transposition of a square of W x W elements in W vectors.
#pragma once

#include "simd.h"

namespace dream_accel {
namespace DREAM_ISA {

template <int STEP, size_t... LANE>
DREAM_INLINE void swap_halves(vf& a, vf& b, std::index_sequence<LANE...>) {
    const vf low = __builtin_shufflevector(a, b, (LANE & STEP ? W + LANE - STEP : LANE)...);
    b = __builtin_shufflevector(a, b, (LANE & STEP ? W + LANE : LANE + STEP)...);
    a = low;
}

template <int STEP = 1>
DREAM_INLINE void transpose(vf (&block)[W]) {
    if constexpr (STEP < W) {
#pragma GCC unroll 16
        for (int i = 0; i < W; ++i) {
            if (!(i & STEP)) swap_halves<STEP>(block[i], block[i + STEP], every_lane());
        }
        transpose<2 * STEP>(block);
    }
}

}  // namespace DREAM_ISA
}  // namespace dream_accel
