// What the operators ask about single rows.
#include "distance.h"
#include "functions.h"
#include "simd.h"

namespace dream_accel {
namespace DREAM_ISA {

bool all_finite(const float* values, int64_t n) {
    // Infinity minus itself is NaN too.
    vf sum = {};
    for (int64_t i = 0; i < n; i += W) {
        const vf value = load_at(values, i, n);
        sum += value - value;
    }
    return sum_lanes(sum) == 0.0f;
}

float row_distance(const void* x, Dtype dtype, const float* centroid, int64_t D) {
    return with_type(dtype, [&](auto* row) { return distance_between(static_cast<decltype(row)>(x), centroid, D); });
}

}  // namespace DREAM_ISA
}  // namespace dream_accel
