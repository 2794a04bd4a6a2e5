// Lloyd's iteration of all groups in step, until every group has stopped.
#include <algorithm>
#include <memory>
#include <vector>

#include "bounded_assignment.h"
#include "buffer.h"
#include "operators.h"

namespace dream_accel {
namespace {

// Sum of the squared differences, but for those that are NaN, as of dead centroids.
double shift_of(const float* now, const float* before, int64_t n) {
    double sum = 0.0;
    for (int64_t i = 0; i < n; ++i) {
        const double difference = static_cast<double>(now[i]) - before[i];
        if (difference == difference) sum += difference * difference;
    }
    return sum;
}

bool any(const std::vector<uint8_t>& flags) { return std::find(flags.begin(), flags.end(), 1) != flags.end(); }

std::vector<int64_t> groups_where(const std::vector<uint8_t>& flags) {
    std::vector<int64_t> groups;
    for (size_t g = 0; g < flags.size(); ++g) {
        if (flags[g]) groups.push_back(static_cast<int64_t>(g));
    }
    return groups;
}

}  // namespace

void kmeans_iterate(
    const Rows& rows, const float* start, int64_t K, int64_t max_iter, const float* tolerance, bool farthest,
    int32_t* labels, float* centroids, int32_t* n_iter, int n_threads) {
    check_offsets(rows);
    const int64_t G = rows.G, size = K * rows.D;
    auto other = make_buffer<float>(G * size);
    auto before = make_buffer<int32_t>(rows.N);
    auto counts = make_buffer<int32_t>(G * K);
    std::unique_ptr<BoundedAssignment> bounded;
    if (BoundedAssignment::serves(rows, K)) {
        bounded = std::make_unique<BoundedAssignment>(rows, start, K, n_threads);
    }
    float *now = centroids, *previous = other.get();
    std::copy_n(start, G * size, now);
    std::copy_n(start, G * size, previous);
    std::fill_n(labels, rows.N, -1);
    std::fill_n(n_iter, G, 0);

    const auto assign = [&](const std::vector<uint8_t>& chosen) {
        std::copy_n(labels, rows.N, before.get());
        if (bounded) {
            bounded->assign(groups_where(chosen), now, previous, labels);
        } else {
            kmeans_assign(rows, now, K, chosen.data(), before.get(), nullptr, labels, nullptr, n_threads);
        }
    };
    std::vector<uint8_t> active(G);
    for (int64_t g = 0; g < G; ++g) active[g] = rows.size(g) > 0;
    for (int64_t iteration = 0; iteration < max_iter && any(active); ++iteration) {
        assign(active);
        // With unchanged labels the centroids are the means of exactly these members, which is a fixpoint.
        for (const int64_t g : groups_where(active)) {
            const int32_t* own = labels + rows.offsets[g];
            active[g] = !std::equal(own, own + rows.size(g), before.get() + rows.offsets[g]);
        }
        std::swap(now, previous);
        kmeans_update(
            rows, labels, K, nullptr, previous, before.get(), active.data(), farthest, now, counts.get(), n_threads);
        std::vector<uint8_t> settled(G);
        for (const int64_t g : groups_where(active)) {
            ++n_iter[g];
            settled[g] = tolerance && !(shift_of(now + g * size, previous + g * size, size) > tolerance[g]);
            if (settled[g]) active[g] = 0;
        }
        if (any(settled)) assign(settled);
    }
    if (any(active)) assign(active);
    if (now != centroids) std::copy_n(now, G * size, centroids);
}

}  // namespace dream_accel
