// Squared distance of two rows.
#pragma once

#include "simd.h"

namespace dream_accel {
namespace DREAM_ISA {

template <class T>
static float distance_between(const T* x, const float* c, int64_t D) {
    vf sum[4] = {};
    int64_t d = 0;
    for (; d + 4 * W <= D; d += 4 * W) {
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
            const vf difference = load(x + d + i * W) - load(c + d + i * W);
            sum[i] += difference * difference;
        }
    }
    for (; d < D; d += W) {
        const vf difference = load_at(x, d, D) - load_at(c, d, D);
        sum[0] += difference * difference;
    }
    return sum_lanes((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

}  // namespace DREAM_ISA
}  // namespace dream_accel
