// The nearest centroid of a row whose scores are known within a margin: true distances decide between those in reach.
#pragma once

#include <immintrin.h>

#include "distance.h"
#include "functions.h"
#include "simd.h"

namespace dream_accel {
namespace DREAM_ISA {

struct Nearest {
    float score;     // the lowest so far
    float distance;  // of the label, once it has been computed
    int32_t label;
};

constexpr int32_t NOBODY = -1;
constexpr float NOT_COMPUTED = -1.0f;

// Bit i is set where a[i] <= b[i].
DREAM_INLINE unsigned at_most(vf a, vf b) {
#if defined(__AVX512F__)
    return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_LE_OQ);
#else
    return static_cast<unsigned>(_mm256_movemask_ps((__m256)(a <= b)));
#endif
}

template <class T>
static float finite_distance(const AssignTile& tile, const T* x, int64_t label) {
    const float distance = distance_between(x, tile.centroids + label * tile.D, tile.D);
    return distance == distance ? distance : __builtin_inff();
}

// Chooses the candidate if it is nearer, or equally near with a lower index. Most rows have a single candidate, whose
// distance is not computed.
template <class T>
static void consider(const AssignTile& tile, const T* x, int64_t candidate, Nearest& nearest) {
    float distance = NOT_COMPUTED;
    if (nearest.label != NOBODY) {
        if (nearest.distance == NOT_COMPUTED) nearest.distance = finite_distance(tile, x, nearest.label);
        distance = finite_distance(tile, x, candidate);
        const bool nearer = distance < nearest.distance;
        if (!nearer && !(distance == nearest.distance && candidate < nearest.label)) {
            return;
        }
    }
    nearest.distance = distance;
    nearest.label = static_cast<int32_t>(candidate);
}

// Compares n_columns scores of a row, the first of which belongs to centroid first.
template <class T>
static void take_up(
    const AssignTile& tile, const T* x, const float* scores, int64_t first, int64_t n_columns, float margin,
    Nearest& nearest) {
    const float* norms = tile.norms + first;
    vf least = broadcast(nearest.score);
    for (int64_t k = 0; k < n_columns; k += W) {
        const vf score = load(norms + k) + load(scores + k);
        least = score < least ? score : least;
    }
    nearest.score = reduce_lanes(least, [](vf a, vf b) { return b < a ? b : a; })[0];
    const vf limit = broadcast(nearest.score + margin);
    for (int64_t k = 0; k < n_columns; k += W) {
        const vf score = load(norms + k) + load(scores + k);
        for (unsigned close = at_most(score, limit); close; close &= close - 1) {
            const int64_t label = first + k + __builtin_ctz(close);
            if (tile.norms[label] < __builtin_inff()) consider(tile, x, label, nearest);
        }
    }
}

// Writes what was found of n_rows rows.
template <class T>
static void write_nearest(
    const AssignTile& tile, const T* x, int n_rows, const Nearest* nearest, int32_t* labels, float* distance) {
    for (int i = 0; i < n_rows; ++i) {
        labels[i] = nearest[i].label == NOBODY ? tile.first_live : nearest[i].label;
        if (!distance) continue;
        const bool computed = nearest[i].distance != NOT_COMPUTED;
        distance[i] = computed ? nearest[i].distance : finite_distance(tile, x + i * tile.D, labels[i]);
    }
}

}  // namespace DREAM_ISA
}  // namespace dream_accel
