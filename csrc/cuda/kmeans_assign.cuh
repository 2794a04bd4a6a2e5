// Assignment: a tiled fp32 product with the argmin running along, so rows x clusters is never stored.
#pragma once

#include "device.cuh"
#include "kmeans_arguments.h"
#include "row_distance.cuh"

namespace dream_accel {
namespace cuda {

constexpr int ASSIGN_DEPTH = 16;   // features in shared memory at a time
constexpr int ASSIGN_ACROSS = 16;  // threads that share rows; each has every 16th quadruple of clusters

// A warp per centroid: a single entry that is not finite makes it dead.
__device__ inline void live_centroids(const LiveArguments& a) {
    const long long at = static_cast<long long>(blockIdx.x) * (SWEEP_THREADS / WARP) + warp();
    if (at >= a.n) return;
    bool live = true;
    for (long long d = lane(); d < a.D; d += WARP) live = live && finite(a.centroids[at * a.D + d]);
    const int dead = lanes_sum(live ? 0 : 1, WARP);
    if (lane() == 0) a.live[at] = dead == 0;
}

// centre[g] = mean of the live centroids. Any vector is right as the origin; one amid the centroids keeps
// |c|^2 - 2 x.c from cancelling where the data lie far from zero, and the finite entries of a dead one may lie
// anywhere.
__device__ inline void centroid_centre(const CentreArguments& a) {
    const long long at = static_cast<long long>(blockIdx.x) * SWEEP_THREADS + threadIdx.x;
    if (at >= a.G * a.D) return;
    const long long group = at / a.D;
    const float* c = a.centroids + group * a.K * a.D + at % a.D;
    float sum = 0.0f;
    int n = 0;
    for (long long k = 0; k < a.K; ++k) {
        if (a.live[group * a.K + k]) {
            sum += c[k * a.D];
            ++n;
        }
    }
    const float mean = n > 0 ? sum / static_cast<float>(n) : 0.0f;
    a.centre[at] = finite(mean) ? mean : 0.0f;
}

// Rows of one group: a tile never crosses into the next. group is -1 for blocks beyond the last tile.
struct RowTile {
    long long group, first;
    int n;
};

// Where this block's rows begin. The number of tiles is known to the device alone, so every block counts them.
__device__ inline RowTile locate_tile(const long long* offsets, long long G) {
    __shared__ RowTile found;
    if (threadIdx.x == 0) found = {-1, 0, 0};
    __syncthreads();
    const long long wanted = blockIdx.x;
    long long seen = 0;
    for (long long g0 = 0; g0 < G && seen <= wanted; g0 += blockDim.x) {
        const long long g = g0 + threadIdx.x;
        const long long begin = g < G ? offsets[g] : 0, end = g < G ? offsets[g + 1] : 0;
        const int n = static_cast<int>((end - begin + ASSIGN_ROWS - 1) / ASSIGN_ROWS);
        int total = 0;
        const long long mine = wanted - seen - block_exclusive_scan(n, total);
        if (mine >= 0 && mine < n) {
            const long long first = begin + mine * ASSIGN_ROWS;
            found = {g, first, static_cast<int>(end - first < ASSIGN_ROWS ? end - first : ASSIGN_ROWS)};
        }
        seen += total;
    }
    __syncthreads();
    return found;
}

template <int TILE>
struct alignas(16) AssignShared {
    static constexpr int PAD = 4;  // keeps rows 16-byte aligned and off each other's banks
    float x[ASSIGN_DEPTH][ASSIGN_ROWS + PAD];
    float c[ASSIGN_DEPTH][TILE + PAD];
    float norms[TILE];
    int labels[ASSIGN_ROWS];
};

struct Nearest {
    float score;
    int cluster;
};

__device__ __forceinline__ bool nearer(const Nearest& a, const Nearest& b) {
    return a.score < b.score || (a.score == b.score && a.cluster < b.cluster);
}

// label_i = argmin_k |c'_k|^2 - 2 x'_i.c'_k with x' = x - centre, c' = c - centre: |x'_i|^2 is the same for every k.
// The distance is then summed from the differences: it does not cancel for rows close to their centroid.
//
// A thread owns ROWS x CLUSTERS sums: rows 4 * (thread / 16) + i and clusters 4 * (thread % 16) + j of every 64.
template <int CLUSTERS, class T>
__device__ __forceinline__ void assign_rows(
    const AssignArguments& a, const T* x, AssignShared<CLUSTERS * ASSIGN_ACROSS>& shared) {
    constexpr int ROWS = ASSIGN_ROWS / (ASSIGN_THREADS / ASSIGN_ACROSS);
    constexpr int TILE = CLUSTERS * ASSIGN_ACROSS;
    constexpr int LOADS = TILE * ASSIGN_DEPTH / ASSIGN_THREADS / 4;
    static_assert(ROWS == 4 && CLUSTERS % 4 == 0, "shared memory is read four values at a time");

    const RowTile tile = locate_tile(a.rows.offsets, a.rows.G);
    if (tile.group < 0) return;
    if (a.active && !a.active[tile.group]) {
        for (int i = threadIdx.x; i < tile.n; i += ASSIGN_THREADS) {
            a.labels[tile.first + i] = a.previous_labels[tile.first + i];
            if (a.distance) a.distance[tile.first + i] = a.previous_distance[tile.first + i];
        }
        return;
    }

    const long long D = a.rows.D;
    const float* centroids = a.centroids + tile.group * a.K * D;
    const float* centre = a.centre + tile.group * D;
    const T* rows = x + tile.first * D;
    const int across = threadIdx.x % ASSIGN_ACROSS, down = threadIdx.x / ASSIGN_ACROSS;
    // What this thread carries into shared memory: four features of one row, and of every 64th cluster.
    const int load_row = threadIdx.x / 4, load_d = threadIdx.x % 4 * 4;

    Nearest best[ROWS];
    for (int i = 0; i < ROWS; ++i) best[i] = {__uint_as_float(0x7f800000u), 0};

    for (int k0 = 0; k0 < a.K; k0 += TILE) {
        float product[ROWS][CLUSTERS] = {};
        float squares[LOADS] = {};
        for (long long d0 = 0; d0 < D; d0 += ASSIGN_DEPTH) {
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                const long long d = d0 + load_d + e;
                const float origin = d < D ? centre[d] : 0.0f;
                const bool in_row = d < D && load_row < tile.n;
                shared.x[load_d + e][load_row] = in_row ? to_float(rows[load_row * D + d]) - origin : 0.0f;
#pragma unroll
                for (int load = 0; load < LOADS; ++load) {
                    const int k = load_row + load * (ASSIGN_THREADS / 4);
                    const bool in_cluster = d < D && k0 + k < a.K;
                    const float value = in_cluster ? centroids[(k0 + k) * D + d] - origin : 0.0f;
                    shared.c[load_d + e][k] = value;
                    squares[load] += value * value;
                }
            }
            __syncthreads();
#pragma unroll
            for (int d = 0; d < ASSIGN_DEPTH; ++d) {
                const float4 r = *reinterpret_cast<const float4*>(&shared.x[d][down * ROWS]);
                const float of_row[ROWS] = {r.x, r.y, r.z, r.w};
#pragma unroll
                for (int j = 0; j < CLUSTERS; j += 4) {
                    const int k = across * 4 + j * ASSIGN_ACROSS;
                    const float4 c = *reinterpret_cast<const float4*>(&shared.c[d][k]);
#pragma unroll
                    for (int i = 0; i < ROWS; ++i) {
                        product[i][j] += of_row[i] * c.x;
                        product[i][j + 1] += of_row[i] * c.y;
                        product[i][j + 2] += of_row[i] * c.z;
                        product[i][j + 3] += of_row[i] * c.w;
                    }
                }
            }
            __syncthreads();
        }
#pragma unroll
        for (int load = 0; load < LOADS; ++load) {
            const float norm = lanes_sum(squares[load], 4);
            // A dead centroid, or none at all, is infinitely far.
            const int k = load_row + load * (ASSIGN_THREADS / 4);
            if (load_d == 0) shared.norms[k] = finite(norm) && k0 + k < a.K ? norm : __uint_as_float(0x7f800000u);
        }
        __syncthreads();
#pragma unroll
        for (int j = 0; j < CLUSTERS; ++j) {
            const int k = across * 4 + j / 4 * 4 * ASSIGN_ACROSS + j % 4;
#pragma unroll
            for (int i = 0; i < ROWS; ++i) {
                // Strictly less, and k only grows: among equals the lowest index wins. NaN is never less.
                const float score = shared.norms[k] - 2.0f * product[i][j];
                if (score < best[i].score) best[i] = {score, k0 + k};
            }
        }
        __syncthreads();
    }

#pragma unroll
    for (int i = 0; i < ROWS; ++i) {
        for (int step = ASSIGN_ACROSS / 2; step > 0; step /= 2) {
            const Nearest other = {
                __shfl_xor_sync(ALL_LANES, best[i].score, step), __shfl_xor_sync(ALL_LANES, best[i].cluster, step)};
            if (nearer(other, best[i])) best[i] = other;
        }
        if (across == 0) shared.labels[down * ROWS + i] = best[i].cluster;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < tile.n; i += ASSIGN_THREADS) a.labels[tile.first + i] = shared.labels[i];
    if (!a.distance) return;
    for (int i = warp(); i < tile.n; i += ASSIGN_THREADS / WARP) {
        const float distance = row_distance(rows + i * D, centroids + shared.labels[i] * D, D);
        if (lane() == 0) a.distance[tile.first + i] = distance;
    }
}

template <int CLUSTERS>
__device__ __forceinline__ void assign(const AssignArguments& a) {
    __shared__ AssignShared<CLUSTERS * ASSIGN_ACROSS> shared;
    with_type(a.rows.dtype, [&](auto* type) { assign_rows<CLUSTERS>(a, typed(a.rows.x, type), shared); });
}

}  // namespace cuda
}  // namespace dream_accel
