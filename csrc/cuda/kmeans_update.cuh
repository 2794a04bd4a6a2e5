// Means of the clusters from their member lists.
#pragma once

#include "device.cuh"
#include "kmeans_arguments.h"

namespace dream_accel {
namespace cuda {

constexpr int MEAN_LANES = MEAN_THREADS / MEAN_COLUMNS;  // threads that share a column

// c_gk = sum of members / number of members, in double and rounded once: the mean of equal rows is exactly that row.
// Each of MEAN_LANES threads adds every MEAN_LANES-th member, in order.
template <class T>
__device__ __forceinline__ void mean_of_members(const MeanArguments& a, const T* x, double (*sums)[MEAN_COLUMNS]) {
    const long long cluster = blockIdx.x / a.n_slices, g = cluster / a.K;
    const int k = static_cast<int>(cluster % a.K);
    const int* starts = a.starts + g * (a.K + 1);
    const int begin = starts[k], count = starts[k + 1] - begin;
    const int column = threadIdx.x % MEAN_COLUMNS, lane_of_column = threadIdx.x / MEAN_COLUMNS;
    const long long D = a.rows.D, d = static_cast<long long>(blockIdx.x % a.n_slices) * MEAN_COLUMNS + column;
    if (threadIdx.x == 0 && blockIdx.x % a.n_slices == 0) a.counts[cluster] = count;

    if (count == 0 || (a.active && !a.active[g])) {
        if (lane_of_column == 0 && d < D) {
            a.centroids[cluster * D + d] = a.previous ? a.previous[cluster * D + d] : __uint_as_float(0x7fc00000u);
        }
        return;
    }
    const int* members = a.members + a.rows.offsets[g] + begin;
    const T* rows = x + a.rows.offsets[g] * D;
    double sum = 0.0;
    if (d < D) {
#pragma unroll 4
        for (int m = lane_of_column; m < count; m += MEAN_LANES) {
            sum += static_cast<double>(to_float(rows[members[m] * D + d]));
        }
    }
    sums[lane_of_column][column] = sum;
    __syncthreads();
    if (lane_of_column == 0 && d < D) {
        for (int other = 1; other < MEAN_LANES; ++other) sum += sums[other][column];
        a.centroids[cluster * D + d] = static_cast<float>(sum / count);
    }
}

__device__ inline void cluster_mean(const MeanArguments& a) {
    __shared__ double sums[MEAN_LANES][MEAN_COLUMNS];
    with_type(a.rows.dtype, [&](auto* type) { mean_of_members(a, typed(a.rows.x, type), sums); });
}

}  // namespace cuda
}  // namespace dream_accel
