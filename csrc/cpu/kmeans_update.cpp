// Means of the clusters: member lists by counting sort, then every cluster's rows added in order.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "buffer.h"
#include "groups.h"
#include "isa/kernels.h"
#include "operators.h"
#include "own_distances.h"
#include "parallel.h"

namespace dream_accel {
namespace {

bool has_empty(const int32_t* begin, int64_t K) { return std::adjacent_find(begin, begin + K + 1) != begin + K + 1; }

std::vector<int64_t> groups_with_empty_clusters(
    const Rows& rows, const int32_t* begins, int64_t K, const uint8_t* active) {
    std::vector<int64_t> groups;
    for (int64_t g = 0; g < rows.G; ++g) {
        if (rows.size(g) == 0 || (active && !active[g])) continue;
        if (has_empty(begins + g * (K + 1), K)) groups.push_back(g);
    }
    return groups;
}

// The member nearest each cluster's centroid: it never moves, so that no cluster runs empty.
std::vector<bool> find_anchors(
    const float* distance, int64_t n_rows, int64_t K, const int32_t* members, const int32_t* begin) {
    std::vector<bool> anchors(n_rows);
    for (int64_t k = 0; k < K; ++k) {
        if (begin[k] == begin[k + 1]) continue;
        int32_t anchor = members[begin[k]];
        for (int32_t i = begin[k] + 1; i < begin[k + 1]; ++i) {
            const float best = distance[anchor], here = distance[members[i]];
            if (here < best || (std::isnan(best) && !std::isnan(here))) anchor = members[i];
        }
        anchors[anchor] = true;
    }
    return anchors;
}

// Gives each empty cluster of a group, in order, the row farthest from its centroid that is still free to move.
void fill_empty_clusters(
    const int32_t* labels, const float* distance, int64_t n_rows, int64_t K, int32_t* members, int32_t* begin) {
    std::vector<int32_t> empty;
    for (int64_t k = 0; k < K; ++k) {
        if (begin[k] == begin[k + 1]) empty.push_back(static_cast<int32_t>(k));
    }
    if (empty.empty()) return;

    const std::vector<bool> anchors = find_anchors(distance, n_rows, K, members, begin);
    std::vector<int32_t> candidates;
    for (int32_t i = 0; i < begin[K]; ++i) {
        if (distance[members[i]] > 0 && !anchors[members[i]]) candidates.push_back(members[i]);
    }
    const size_t n_moves = std::min(empty.size(), candidates.size());
    std::partial_sort(candidates.begin(), candidates.begin() + n_moves, candidates.end(), [&](int32_t a, int32_t b) {
        return distance[a] > distance[b] || (distance[a] == distance[b] && a < b);
    });

    std::vector<int32_t> moved(labels, labels + n_rows);
    for (size_t e = 0; e < n_moves; ++e) moved[candidates[e]] = empty[e];
    sort_by_label(moved.data(), n_rows, K, members, begin);
}

// Marks the clusters of one group whose members have changed. Where a cluster is or was empty, rows may have been moved
// since they were labelled, so all are marked.
//   begin    IN (K+1,) of the labels, before rows are moved
//   changed  OUT (K,)
void mark_changed(
    const int32_t* labels, const int32_t* previous_labels, int64_t n_rows, int64_t K, const int32_t* begin,
    uint8_t* changed) {
    std::vector<uint8_t> had_members(K);
    std::fill_n(changed, K, uint8_t{0});
    const auto is_cluster = [K](int32_t label) { return 0 <= label && label < K; };
    for (int64_t i = 0; i < n_rows; ++i) {
        const int32_t now = labels[i], before = previous_labels[i];
        if (is_cluster(before)) had_members[before] = 1;
        if (now == before) continue;
        if (is_cluster(now)) changed[now] = 1;
        if (is_cluster(before)) changed[before] = 1;
    }
    const bool had_empty = std::find(had_members.begin(), had_members.end(), 0) != had_members.end();
    if (had_empty || has_empty(begin, K)) std::fill_n(changed, K, uint8_t{1});
}

}  // namespace

void kmeans_update(
    const Rows& rows, const int32_t* labels, int64_t K, const float* distance, const float* previous,
    const int32_t* previous_labels, const uint8_t* active, bool farthest, float* centroids, int32_t* counts,
    int n_threads) {
    check_offsets(rows);
    const Kernels& isa = kernels();
    const int64_t G = rows.G, D = rows.D;
    n_threads = threads_for(rows.N * D + G * K * D, n_threads);
    auto members = make_buffer<int32_t>(rows.N);
    auto begins = make_buffer<int32_t>(G * (K + 1));
    auto changed = make_buffer<uint8_t>(G * K);

    parallel_for(G, n_threads, [&](int64_t g, int) {
        const int64_t first = rows.offsets[g], n_rows = rows.size(g);
        int32_t* begin = begins.get() + g * (K + 1);
        sort_by_label(labels + first, n_rows, K, members.get() + first, begin);
        if (previous_labels) {
            mark_changed(labels + first, previous_labels + first, n_rows, K, begin, changed.get() + g * K);
        } else {
            std::fill_n(changed.get() + g * K, K, uint8_t{1});
        }
    });
    if (farthest) {
        const std::vector<int64_t> groups = groups_with_empty_clusters(rows, begins.get(), K, active);
        Buffer<float> computed;
        if (!distance && !groups.empty()) {
            computed = make_buffer<float>(rows.N);
            own_distances(rows, groups, previous, K, labels, computed.get(), n_threads);
            distance = computed.get();
        }
        parallel_for(static_cast<int64_t>(groups.size()), n_threads, [&](int64_t i, int) {
            const int64_t g = groups[i], first = rows.offsets[g];
            int32_t* begin = begins.get() + g * (K + 1);
            fill_empty_clusters(labels + first, distance + first, rows.size(g), K, members.get() + first, begin);
        });
    }
    for (int64_t g = 0; g < G; ++g) {
        const int32_t* begin = begins.get() + g * (K + 1);
        for (int64_t k = 0; k < K; ++k) counts[g * K + k] = begin[k + 1] - begin[k];
    }

    // Few clusters are split by columns, so that every thread gets some.
    const int64_t wanted = (4 * n_threads + G * K - 1) / std::max<int64_t>(G * K, 1);
    const int64_t n_slices = std::clamp<int64_t>(wanted, 1, std::max<int64_t>(D / 256, 1));
    parallel_for(G * K * n_slices, n_threads, [&](int64_t task, int) {
        const int64_t cluster = task / n_slices, slice = task % n_slices, g = cluster / K, k = cluster % K;
        const int64_t from = D * slice / n_slices, to = D * (slice + 1) / n_slices;
        float* centroid = centroids + cluster * D;
        if (counts[cluster] > 0 && changed[cluster] && (!active || active[g])) {
            const int32_t* own = members.get() + rows.offsets[g] + begins[g * (K + 1) + k];
            isa.mean_of_rows(rows.row(rows.offsets[g]), rows.dtype, D, own, counts[cluster], from, to, centroid);
        } else if (previous) {
            std::copy(previous + cluster * D + from, previous + cluster * D + to, centroid + from);
        } else {
            std::fill(centroid + from, centroid + to, std::numeric_limits<float>::quiet_NaN());
        }
    });
}

}  // namespace dream_accel
