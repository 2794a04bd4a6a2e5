// What is known of the distances of a row without computing them, and how rounding spoils it.
#pragma once

#include <cstdint>

namespace dream_accel {

// Distances, not squared.
struct Bounds {
    float own;     // at most so far is the row from the centroid of its label
    float others;  // at least so far from every other
};

static inline Bounds unknown_bounds() { return {__builtin_inff(), 0.0f}; }

// Relative error, at most, of a sum of D squares in float: the kernels add up several at a time.
static inline float sum_slack(int64_t D) { return (32.0f + static_cast<float>(D) / 32.0f) * 0x1p-24f; }

constexpr float ROOT_SLACK = 0x1p-22f;  // of a root, and of a sum of two floats, relative
constexpr float TINY = 1e-18f;          // the squares of less are lost

// The root of what is at most, or at least, this.
static inline float root_above(float squared) {
    return __builtin_sqrtf(squared < 0.0f ? 0.0f : squared) * (1.0f + ROOT_SLACK) + TINY;
}
static inline float root_below(float squared) {
    return __builtin_sqrtf(squared < 0.0f ? 0.0f : squared) * (1.0f - ROOT_SLACK) - TINY;
}

// The bounds after the own centroid, or another one, moved by at most so much.
static inline float own_after(float own, float moved) { return (own + moved) * (1.0f + ROOT_SLACK); }
static inline float others_after(float others, float moved) { return others * (1.0f - ROOT_SLACK) - moved; }

}  // namespace dream_accel
