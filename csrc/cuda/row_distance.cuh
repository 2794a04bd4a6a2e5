// Squared distances of rows to centroids, summed from the differences: they do not cancel for rows close to theirs.
#pragma once

#include "device.cuh"
#include "kmeans_arguments.h"

namespace dream_accel {
namespace cuda {

// sum_d (x_d - c_d)^2 over the lanes of a warp, for every lane; infinite where it is NaN: where the centroid is dead.
template <class T>
__device__ __forceinline__ float row_distance(const T* x, const float* c, long long D) {
    float sum = 0.0f;
    for (long long d = lane(); d < D; d += WARP) {
        const float difference = to_float(x[d]) - c[d];
        sum += difference * difference;
    }
    sum = lanes_sum(sum, WARP);
    return sum == sum ? sum : __uint_as_float(0x7f800000u);
}

// The same to the centroid of a group a row is labelled with; infinite for a label outside [0, K).
__device__ __forceinline__ float own_distance(
    const GroupedRows& rows, long long row, const float* centroids_of_group, int label, int K) {
    float distance = __uint_as_float(0x7f800000u);
    if (label >= 0 && label < K) {
        with_type(rows.dtype, [&](auto* type) {
            distance = row_distance(typed(rows.x, type) + row * rows.D, centroids_of_group + label * rows.D, rows.D);
        });
    }
    return distance;
}

}  // namespace cuda
}  // namespace dream_accel
