// Distance of rows to the centroid they are labelled with.
#include "own_distances.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "isa/kernels.h"
#include "parallel.h"

namespace dream_accel {
namespace {

constexpr int64_t ROWS_PER_TASK = 64;

struct Task {
    int64_t group, first;
};

}  // namespace

void own_distances(
    const Rows& rows, const std::vector<int64_t>& groups, const float* centroids, int64_t K, const int32_t* labels,
    float* distance, int n_threads) {
    const Kernels& isa = kernels();
    std::vector<Task> tasks;
    for (const int64_t g : groups) {
        for (int64_t i = rows.offsets[g]; i < rows.offsets[g + 1]; i += ROWS_PER_TASK) tasks.push_back({g, i});
    }
    parallel_for(static_cast<int64_t>(tasks.size()), n_threads, [&](int64_t task, int) {
        const auto [g, first] = tasks[task];
        const int64_t last = std::min(first + ROWS_PER_TASK, rows.offsets[g + 1]);
        for (int64_t i = first; i < last; ++i) {
            distance[i] = std::numeric_limits<float>::infinity();
            if (labels[i] < 0 || labels[i] >= K) continue;
            const float* centroid = centroids + (g * K + labels[i]) * rows.D;
            const float found = isa.row_distance(rows.row(i), rows.dtype, centroid, rows.D);
            if (!std::isnan(found)) distance[i] = found;
        }
    });
}

}  // namespace dream_accel
