// Bounds on the distances of a row to centroids, and their allowance for rounding.
#pragma once

#include <cstdint>

namespace dream_accel {

// Bounds on distances, which are not squared.
struct Bounds {
    float own;     // upper bound on the distance to the centroid of the row's label
    float others;  // lower bound on the distance to every other centroid
};

static inline Bounds unknown_bounds() { return {__builtin_inff(), 0.0f}; }

// Upper bound on the relative error of a sum of D squares in float, in kernels that add up several at a time.
static inline float sum_slack(int64_t D) { return (32.0f + static_cast<float>(D) / 32.0f) * 0x1p-24f; }

constexpr float ROOT_SLACK = 0x1p-22f;  // relative error of a root, and of a sum of two floats
constexpr float TINY = 1e-18f;          // squares of smaller values underflow

// Upper and lower bounds on the root of a squared distance with that bound.
static inline float root_above(float squared) {
    return __builtin_sqrtf(squared < 0.0f ? 0.0f : squared) * (1.0f + ROOT_SLACK) + TINY;
}
static inline float root_below(float squared) {
    return __builtin_sqrtf(squared < 0.0f ? 0.0f : squared) * (1.0f - ROOT_SLACK) - TINY;
}

// The bounds after the own centroid, or any other, has moved by at most `moved`.
static inline float own_after(float own, float moved) { return (own + moved) * (1.0f + ROOT_SLACK); }
static inline float others_after(float others, float moved) { return others * (1.0f - ROOT_SLACK) - moved; }

}  // namespace dream_accel
