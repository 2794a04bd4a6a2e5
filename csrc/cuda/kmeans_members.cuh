// Member lists: one block sorts the rows of a group by cluster, stably, by a counting sort in which every warp counts
// for itself. Integers alone are added, so the order of the additions does not matter.
#pragma once

#include "device.cuh"
#include "kmeans_arguments.h"
#include "row_distance.cuh"
#include "select.cuh"

namespace dream_accel {
namespace cuda {

constexpr int MEMBERS_OF_WARP = 1024;  // clusters with more are read by the whole block

struct Span {
    int begin, end;
};

// The part of n rows that falls to this warp.
__device__ __forceinline__ Span rows_of_warp(int n) {
    const long long n_warps = blockDim.x / WARP;
    const long long share = (n + n_warps * WARP - 1) / (n_warps * WARP) * WARP;
    const long long begin = warp() * share, end = begin + share;
    return {static_cast<int>(begin < n ? begin : n), static_cast<int>(end < n ? end : n)};
}

// counters is shared memory for K * warps integers; that of (cluster k, warp w) is at k * warps + w, so one scan over
// all of them gives the place of every warp's first member of every cluster.
__device__ inline void sort_by_label(const int* labels, int n, int K, int* counters, int* members, int* starts) {
    const int n_warps = blockDim.x / WARP;
    const Span rows = rows_of_warp(n);
    const auto is_valid = [K](int label) { return label >= 0 && label < K; };
    for (int i = threadIdx.x; i < K * n_warps; i += blockDim.x) counters[i] = 0;
    __syncthreads();
    for (int i = rows.begin + lane(); i < rows.end; i += WARP) {
        if (is_valid(labels[i])) atomicAdd(&counters[labels[i] * n_warps + warp()], 1);
    }
    __syncthreads();

    int before = 0;
    for (int i0 = 0; i0 < K * n_warps; i0 += blockDim.x) {
        const int i = i0 + threadIdx.x;
        const int count = i < K * n_warps ? counters[i] : 0;
        int total = 0;
        const int place = before + block_exclusive_scan(count, total);
        if (i < K * n_warps) {
            counters[i] = place;
            if (i % n_warps == 0) starts[i / n_warps] = place;
        }
        before += total;
    }
    if (threadIdx.x == 0) starts[K] = before;
    __syncthreads();

    for (int i0 = rows.begin; i0 < rows.end; i0 += WARP) {
        const int i = i0 + lane();
        const int label = i < rows.end && is_valid(labels[i]) ? labels[i] : -1;
        const unsigned same = __match_any_sync(ALL_LANES, label);
        const int rank = __popc(same & ((1u << lane()) - 1));
        int* counter = &counters[(label < 0 ? 0 : label) * n_warps + warp()];
        if (label >= 0) members[*counter + rank] = i;
        __syncwarp();
        if (label >= 0 && rank == 0) *counter += __popc(same);
        __syncwarp();
    }
    __syncthreads();
}

__device__ inline int count_empty(const int* starts, int K) {
    int n_empty = 0;
    for (int k0 = 0; k0 < K; k0 += blockDim.x) {
        const int k = k0 + threadIdx.x;
        int total = 0;
        block_exclusive_scan(k < K && starts[k] == starts[k + 1], total);
        n_empty += total;
    }
    return n_empty;
}

// Empty clusters, in order, take the farthest rows that are free to move: rows with a label, at a distance above 0,
// that are not the member nearest their centroid. Returns how many moved, to every thread.
__device__ inline int move_to_empty_clusters(
    const int* labels, const float* distance, int n, int K, int n_empty, const int* members, const int* starts,
    int* moved_labels, unsigned long long* keys, int* histogram) {
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
        const bool movable = labels[i] >= 0 && labels[i] < K && distance[i] > 0.0f;
        keys[i] = movable ? farthest_key(distance[i], i) : NO_KEY;
        moved_labels[i] = labels[i];
    }
    __syncthreads();
    const auto nearest_of = [=](int k, int first, int step) {
        unsigned long long nearest = NO_KEY;
        for (int m = starts[k] + first; m < starts[k + 1]; m += step) {
            const unsigned long long key = order_key(distance[members[m]], members[m]);
            nearest = key < nearest ? key : nearest;
        }
        return nearest;
    };
    // A warp per cluster, and the whole block for each of the few that are large.
    const auto is_large = [=](int k) { return starts[k + 1] - starts[k] > MEMBERS_OF_WARP; };
    for (int k = warp(); k < K; k += blockDim.x / WARP) {
        if (is_large(k)) continue;
        const unsigned long long nearest = warp_min(nearest_of(k, lane(), WARP));
        if (lane() == 0 && nearest != NO_KEY) keys[row_of(nearest)] = NO_KEY;
    }
    for (int k = 0; k < K; ++k) {
        if (!is_large(k)) continue;
        const unsigned long long nearest = block_min(nearest_of(k, threadIdx.x, blockDim.x));
        if (threadIdx.x == 0) keys[row_of(nearest)] = NO_KEY;
    }
    __syncthreads();

    const int n_moved = take_smallest(keys, n, n_empty, histogram);
    int e = 0;
    for (int k0 = 0; k0 < K && e < n_moved; k0 += blockDim.x) {
        const int k = k0 + threadIdx.x;
        const bool empty = k < K && starts[k] == starts[k + 1];
        int total = 0;
        const int rank = e + block_exclusive_scan(empty, total);
        if (empty && rank < n_moved) moved_labels[row_of(keys[rank])] = k;
        e += total;
    }
    __syncthreads();
    return n_moved;
}

__device__ inline void list_members(const MembersArguments& a) {
    DREAM_DYNAMIC_SHARED(memory);
    int* counters = reinterpret_cast<int*>(memory);
    const long long g = blockIdx.x, first = a.rows.offsets[g];
    const int n = static_cast<int>(a.rows.offsets[g + 1] - first);
    const int* labels = a.labels + first;
    int* members = a.members + first;
    int* starts = a.starts + g * (a.K + 1);
    sort_by_label(labels, n, a.K, counters, members, starts);
    if (!a.farthest || (a.active && !a.active[g])) return;
    const int n_empty = count_empty(starts, a.K);
    if (n_empty == 0) return;

    const float* distance = a.distance + first;
    if (!a.distance) {
        const float* centroids = a.previous + g * a.K * a.rows.D;
        for (int i = warp(); i < n; i += blockDim.x / WARP) {
            const float found = own_distance(a.rows, first + i, centroids, labels[i], a.K);
            if (lane() == 0) a.own_distance[first + i] = found;
        }
        __syncthreads();
        distance = a.own_distance + first;
    }
    int* moved_labels = a.moved_labels + first;
    const int n_moved = move_to_empty_clusters(
        labels, distance, n, a.K, n_empty, members, starts, moved_labels, a.keys + first, counters);
    if (n_moved > 0) sort_by_label(moved_labels, n, a.K, counters, members, starts);
}

}  // namespace cuda
}  // namespace dream_accel
