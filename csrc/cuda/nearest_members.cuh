// The rows nearest each centroid, by keys that order (distance, row) pairs as integers.
#pragma once

#include "device.cuh"
#include "kmeans_arguments.h"
#include "row_distance.cuh"

namespace dream_accel {
namespace cuda {

// A warp per row: the key of its distance to the centroid it is labelled with.
__device__ inline void own_distance_keys(const OwnDistanceArguments& a) {
    const long long row = static_cast<long long>(blockIdx.x) * (SWEEP_THREADS / WARP) + warp();
    if (row >= a.rows.N) return;
    const long long g = group_of(a.rows.offsets, a.rows.G, row);
    const float distance = own_distance(a.rows, row, a.centroids + g * a.K * a.rows.D, a.labels[row], a.K);
    if (lane() == 0) a.keys[row] = order_key(distance, static_cast<int>(row - a.rows.offsets[g]));
}

// A warp per cluster takes its members in the order of their keys; then the block fills the slots that are left, in
// order, with the unpicked rows of the group.
__device__ inline void pick_nearest(const PickArguments& a) {
    const long long g = blockIdx.x, first = a.offsets[g];
    const int n_rows = static_cast<int>(a.offsets[g + 1] - first);
    const int* members = a.members + first;
    const int* starts = a.starts + g * (a.K + 1);
    unsigned long long* keys = a.keys + first;
    long long* picks = a.picks + g * a.K * a.n;

    for (int k = warp(); k < a.K; k += blockDim.x / WARP) {
        for (int s = 0; s < a.n; ++s) {
            unsigned long long next = NO_KEY;
            for (int m = starts[k] + lane(); m < starts[k + 1]; m += WARP) {
                const unsigned long long key = keys[members[m]];
                next = key < next ? key : next;
            }
            next = warp_min(next);
            __syncwarp();  // all lanes have read the keys
            if (lane() == 0) {
                picks[static_cast<long long>(k) * a.n + s] = next == NO_KEY ? -1 : first + row_of(next);
                if (next != NO_KEY) keys[row_of(next)] = NO_KEY;
            }
            __syncwarp();
        }
    }
    __syncthreads();

    const long long n_slots = static_cast<long long>(a.K) * a.n;
    unsigned long long at_least = 0;
    for (long long s = 0; s < n_slots; ++s) {
        if (picks[s] >= 0) continue;
        unsigned long long next = NO_KEY;
        for (int i = threadIdx.x; i < n_rows; i += blockDim.x) {
            const unsigned long long key = keys[i];
            if (key >= at_least && key < next) next = key;
        }
        next = block_min(next);
        if (next == NO_KEY) break;
        if (threadIdx.x == 0) picks[s] = first + row_of(next);
        at_least = next + 1;
    }
}

}  // namespace cuda
}  // namespace dream_accel
