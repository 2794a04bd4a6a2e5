// Distance of rows to the centroid they are labelled with.
#pragma once

#include <cstdint>
#include <vector>

#include "operators.h"

namespace dream_accel {

// distance[i] = squared distance of row i to the centroid of its label, for the rows of the given groups; infinite
// where the label is outside [0, K) or the centroid is not finite.
void own_distances(
    const Rows& rows, const std::vector<int64_t>& groups,
    const float* centroids,  // IN (G, K, D)
    int64_t K,
    const int32_t* labels,  // IN (N,)
    float* distance,        // OUT (N,)
    int n_threads);

}  // namespace dream_accel
