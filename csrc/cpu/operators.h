// The operators on the CPU. Pointers are to C-contiguous host memory. Results do not depend on n_threads.
//
// Symbols: G groups, N rows, D features, K clusters; group g owns rows offsets[g] to offsets[g+1] - 1 of x.
#pragma once

#include <cstdint>
#include <vector>

#include "../gradient_pair.h"
#include "types.h"

namespace dream_accel {

struct Rows {
    const void* x;  // (N, D) of dtype
    Dtype dtype;
    int64_t N;
    int64_t D;
    const int64_t* offsets;  // (G+1,)
    int64_t G;

    int64_t size(int64_t group) const { return offsets[group + 1] - offsets[group]; }
    const void* row(int64_t i) const { return static_cast<const char*>(x) + i * D * size_of(dtype); }
};

// Throws std::invalid_argument unless offsets start at 0, never fall, end at N and leave every group under 2^31 rows.
void check_offsets(const Rows& rows);

void kmeans_assign(
    const Rows& rows,
    const float* centroids,  // IN (G, K, D)
    int64_t K,
    const uint8_t* active,           // IN (G,) or null: all
    const int32_t* previous_labels,  // IN (N,) what rows of inactive groups keep; null without active
    const float* previous_distance,  // IN (N,) likewise, where there is distance
    int32_t* labels,                 // OUT (N,)
    float* distance,                 // OUT (N,) or null: not asked for
    int n_threads);

void kmeans_update(
    const Rows& rows,
    const int32_t* labels,  // IN (N,)
    int64_t K,
    const float* distance,           // IN (N,) where farthest; null: to previous, computed where a cluster is empty
    const float* previous,           // IN (G, K, D) or null
    const int32_t* previous_labels,  // IN (N,) those that gave previous, or null: not known
    const uint8_t* active,           // IN (G,) or null: all
    bool farthest,                   // empty clusters take the farthest rows
    float* centroids,                // OUT (G, K, D)
    int32_t* counts,                 // OUT (G, K)
    int n_threads);

// Lloyd's iteration of every group: kmeans_assign and kmeans_update in turn, until no label changes, the centroids
// move no further than the tolerance, or max_iter times; in the end every row is assigned to the centroids returned.
void kmeans_iterate(
    const Rows& rows,
    const float* start,  // IN (G, K, D)
    int64_t K, int64_t max_iter,
    const float* tolerance,  // IN (G,) squared shift of all centroids at which a group stops, or null
    bool farthest,
    int32_t* labels,   // OUT (N,)
    float* centroids,  // OUT (G, K, D)
    int32_t* n_iter,   // OUT (G,) updates
    int n_threads);

// out[r * width + i] = (a_r - m_g).(x_i - m_g) for the rows a_r and x_i of group g, i counted from the group's first
// row; 0 for i from the number of the group's rows to width.
void group_products(
    const Rows& a, const Rows& x,
    const float* centre,  // IN (G, D), m
    int64_t width,        // at least the rows of x in any group
    float* out,           // OUT (rows of a, width)
    int n_threads);

// label_i = argmin_k norms_gk - 2 products_gki, ties to the lowest k; NaN is taken as infinite.
void gram_assign(
    const int64_t* offsets,  // IN (G+1,)
    int64_t G,
    const float* products,  // IN (G, K, width)
    const float* norms,     // IN (G, K)
    int64_t K, int64_t width,
    const uint8_t* active,           // IN (G,); rows of other groups keep previous_labels
    const int32_t* previous_labels,  // IN (N,)
    int32_t* labels,                 // OUT (N,)
    int n_threads);

void nearest_members(
    const Rows& rows,
    const float* centroids,  // IN (G, K, D)
    int64_t K,
    const int32_t* labels,  // IN (N,)
    int64_t n,
    int64_t* picks,  // OUT (G, K, n)
    int n_threads);

void gradient_distance(
    const std::vector<GradientPair>& pairs, int64_t G, Metric metric,
    float* distance,   // OUT (G,)
    float* per_layer,  // OUT (G, number of pairs), or (G, 1) for the global metrics
    int n_threads);

void scale_gradients(
    const std::vector<ScaledGradient>& gradients, int64_t G,
    const float* scale,  // IN (G, number of gradients)
    int n_threads);

// Feature maps before their norm.
struct FeatureMaps {
    const float* y;  // (images, channels, height, width)
    int64_t images, channels, height, width;
    const float* weight;  // (channels,)
    const float* bias;    // (channels,)
};

void norm_relu_pool(
    const FeatureMaps& maps, float eps,
    float* pooled,  // OUT (images, channels, height / 2, width / 2)
    float* mean,    // OUT (images, channels)
    float* rstd,    // OUT (images, channels)
    int n_threads);

// The derivative by y from the one by the result, of_pooled.
void norm_relu_pool_backward(
    const FeatureMaps& maps, const float* mean, const float* rstd, const float* of_pooled, float* of_y, int n_threads);

// The derivatives of the function above, by of_pooled and by y, from the one by its result, of_of_y.
void norm_relu_pool_double_backward(
    const FeatureMaps& maps, const float* mean, const float* rstd, const float* of_pooled, const float* of_of_y,
    float* of_of_pooled, float* of_y, int n_threads);

}  // namespace dream_accel
