// The K-Means operators on a CUDA device. Pointers are to C-contiguous device memory; functions only launch: no copy,
// no synchronisation, so a CUDA graph can capture them. Floating-point sums run in an order that depends on the group
// alone, so a group gets the same bits alone, in a batch and twice.
#pragma once

#include <cstdint>

#include "driver.h"

namespace dream_accel {
namespace cuda {

// Bytes of device memory each operator needs beside its arguments.
int64_t assign_workspace(int64_t G, int64_t K, int64_t D);
int64_t update_workspace(int64_t N, int64_t G, int64_t K, bool farthest);
int64_t nearest_workspace(int64_t N, int64_t G, int64_t K);

// The most clusters of a group.
int64_t max_clusters();

void kmeans_assign(
    const GroupedRows& rows,
    const float* centroids,  // IN (G, K, D)
    int64_t K,
    const uint8_t* active,           // IN (G,) or null: all
    const int32_t* previous_labels,  // IN (N,) what rows of inactive groups keep; null without active
    const float* previous_distance,  // IN (N,) likewise
    int32_t* labels,                 // OUT (N,)
    float* distance,                 // OUT (N,) or null: labels alone
    void* workspace, const Queue& queue);

void kmeans_update(
    const GroupedRows& rows,
    const int32_t* labels,  // IN (N,)
    int64_t K,
    const float* distance,  // IN (N,) or null: where farthest, those to previous are computed
    const float* previous,  // IN (G, K, D) or null
    const uint8_t* active,  // IN (G,) or null: all
    bool farthest,          // empty clusters take the farthest rows
    float* centroids,       // OUT (G, K, D)
    int32_t* counts,        // OUT (G, K)
    void* workspace, const Queue& queue);

void nearest_members(
    const GroupedRows& rows,
    const float* centroids,  // IN (G, K, D)
    int64_t K,
    const int32_t* labels,  // IN (N,)
    int64_t n,
    int64_t* picks,  // OUT (G, K, n)
    void* workspace, const Queue& queue);

}  // namespace cuda
}  // namespace dream_accel
