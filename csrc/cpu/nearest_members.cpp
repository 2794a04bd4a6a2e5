// The rows nearest each centroid.
#include <algorithm>
#include <numeric>
#include <vector>

#include "buffer.h"
#include "groups.h"
#include "operators.h"
#include "own_distances.h"
#include "parallel.h"

namespace dream_accel {
namespace {

// Brings the first n of rows [begin, end) by (distance, row) to the front, in that order. Returns how many there are.
int64_t sort_nearest(int32_t* begin, int32_t* end, int64_t n, const float* distance) {
    n = std::min<int64_t>(n, end - begin);
    std::partial_sort(begin, begin + n, end, [distance](int32_t a, int32_t b) {
        return distance[a] < distance[b] || (distance[a] == distance[b] && a < b);
    });
    return n;
}

// Fills the free slots of a group with the unpicked rows nearest their own centroid. first is the group's first row.
void fill_free_slots(
    const float* distance, int64_t n_rows, int64_t first, int64_t n_free, int64_t n_slots, int64_t* picks) {
    std::vector<bool> picked(n_rows);
    for (int64_t s = 0; s < n_slots; ++s) {
        if (picks[s] >= 0) picked[picks[s] - first] = true;
    }
    std::vector<int32_t> spare;
    for (int64_t i = 0; i < n_rows; ++i) {
        if (!picked[i]) spare.push_back(static_cast<int32_t>(i));
    }
    const int64_t n_spare = sort_nearest(spare.data(), spare.data() + spare.size(), n_free, distance);
    int64_t used = 0;
    for (int64_t s = 0; s < n_slots && used < n_spare; ++s) {
        if (picks[s] < 0) picks[s] = first + spare[used++];
    }
}

}  // namespace

void nearest_members(
    const Rows& rows, const float* centroids, int64_t K, const int32_t* labels, int64_t n, int64_t* picks,
    int n_threads) {
    check_offsets(rows);
    n_threads = threads_for(rows.N * rows.D, n_threads);
    auto distances = make_buffer<float>(rows.N);
    auto all_members = make_buffer<int32_t>(rows.N);
    std::vector<int64_t> groups(rows.G);
    std::iota(groups.begin(), groups.end(), 0);
    own_distances(rows, groups, centroids, K, labels, distances.get(), n_threads);

    parallel_for(rows.G, n_threads, [&](int64_t g, int) {
        const int64_t first = rows.offsets[g], n_rows = rows.size(g);
        const float* distance = distances.get() + first;
        int32_t* members = all_members.get() + first;
        int64_t* group_picks = picks + g * K * n;
        std::vector<int32_t> begin(K + 1);
        sort_by_label(labels + first, n_rows, K, members, begin.data());
        std::fill_n(group_picks, K * n, int64_t(-1));
        int64_t n_free = K * n;
        for (int64_t k = 0; k < K; ++k) {
            const int64_t found = sort_nearest(members + begin[k], members + begin[k + 1], n, distance);
            for (int64_t s = 0; s < found; ++s) group_picks[k * n + s] = first + members[begin[k] + s];
            n_free -= found;
        }
        if (n_free > 0) fill_free_slots(distance, n_rows, first, n_free, K * n, group_picks);
    });
}

}  // namespace dream_accel
