// The rows nearest each centroid, by keys that order (distance, row) pairs as integers.
#pragma once

#include "device.cuh"
#include "kmeans_arguments.h"
#include "row_distance.cuh"
#include "select.cuh"

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

    __shared__ int histogram[DIGITS];
    const long long n_slots = static_cast<long long>(a.K) * a.n;
    long long n_free = 0;
    for (long long s0 = 0; s0 < n_slots; s0 += blockDim.x) {
        const long long s = s0 + threadIdx.x;
        int total = 0;
        block_exclusive_scan(s < n_slots && picks[s] < 0, total);
        n_free += total;
    }
    const int n_picked = take_smallest(keys, n_rows, static_cast<int>(n_free < n_rows ? n_free : n_rows), histogram);
    int e = 0;
    for (long long s0 = 0; s0 < n_slots && e < n_picked; s0 += blockDim.x) {
        const long long s = s0 + threadIdx.x;
        const bool is_free = s < n_slots && picks[s] < 0;
        int total = 0;
        const int rank = e + block_exclusive_scan(is_free, total);
        if (is_free && rank < n_picked) picks[s] = first + row_of(keys[rank]);
        e += total;
    }
}

}  // namespace cuda
}  // namespace dream_accel
