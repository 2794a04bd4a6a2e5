#include "kmeans.h"

#include <algorithm>

#include "workspace.h"

namespace dream_accel {
namespace cuda {
namespace {

constexpr int WARP = 32;
static_assert(sizeof(int) == sizeof(int32_t) && sizeof(long long) == sizeof(int64_t), "kernels count in these");

// As many warps as have rows, and counters for K clusters each.
int member_warps(int64_t N, int64_t G, int64_t K) {
    constexpr int64_t ROWS_PER_WARP = 64;
    const int64_t wanted = ceil_div(ceil_div(N, std::max<int64_t>(G, 1)), ROWS_PER_WARP);
    const int64_t fitting = MEMBER_SHARED / (static_cast<int64_t>(sizeof(int)) * K);
    return static_cast<int>(std::clamp<int64_t>(std::min(wanted, fitting), 1, MEMBER_THREADS / WARP));
}

void list_members(const MembersArguments& arguments, const Queue& queue) {
    const int warps = member_warps(arguments.rows.N, arguments.rows.G, arguments.K);
    const unsigned shared = static_cast<unsigned>(sizeof(int) * std::max(warps * arguments.K, DIGITS));
    launch<kernel::list_members>(queue, arguments.rows.G, arguments, static_cast<unsigned>(warps * WARP), shared);
}

}  // namespace

int64_t max_clusters() { return MEMBER_SHARED / sizeof(int); }

int64_t assign_workspace(int64_t G, int64_t K, int64_t D) { return bytes_of<float>(G * D) + bytes_of<uint8_t>(G * K); }

int64_t update_workspace(int64_t N, int64_t G, int64_t K, bool farthest) {
    const int64_t lists = bytes_of<int>(N) + bytes_of<int>(G * (K + 1));
    return lists + (farthest ? bytes_of<int>(N) + bytes_of<float>(N) + bytes_of<unsigned long long>(N) : 0);
}

int64_t nearest_workspace(int64_t N, int64_t G, int64_t K) {
    return update_workspace(N, G, K, false) + bytes_of<unsigned long long>(N);
}

void kmeans_assign(
    const GroupedRows& rows, const float* centroids, int64_t K, const uint8_t* active, const int32_t* previous_labels,
    const float* previous_distance, int32_t* labels, float* distance, void* workspace, const Queue& queue) {
    Workspace memory(workspace);
    float* centre = memory.take<float>(rows.G * rows.D);
    auto* live = memory.take<uint8_t>(rows.G * K);
    if (rows.G == 0 || rows.N == 0) return;
    launch<kernel::live_centroids>(
        queue, ceil_div(rows.G * K, SWEEP_THREADS / WARP), {centroids, live, rows.G * K, rows.D});
    launch<kernel::centroid_centre>(
        queue, ceil_div(rows.G * rows.D, SWEEP_THREADS), {centroids, live, centre, rows.G, K, rows.D});
    const AssignArguments arguments = {
        rows, centroids, centre, active, previous_labels, previous_distance, labels, distance, static_cast<int>(K)};
    // Only the device knows where groups end; this many tiles are enough.
    const int64_t tiles = rows.N / ASSIGN_ROWS + rows.G;
    if (K <= 64) {
        launch<kernel::kmeans_assign_64>(queue, tiles, arguments);
    } else {
        launch<kernel::kmeans_assign_128>(queue, tiles, arguments);
    }
}

void kmeans_update(
    const GroupedRows& rows, const int32_t* labels, int64_t K, const float* distance, const float* previous,
    const uint8_t* active, bool farthest, float* centroids, int32_t* counts, void* workspace, const Queue& queue) {
    Workspace memory(workspace);
    MembersArguments members = {};
    members.rows = rows;
    members.labels = labels;
    members.distance = distance;
    members.previous = previous;
    members.active = active;
    members.members = memory.take<int>(rows.N);
    members.starts = memory.take<int>(rows.G * (K + 1));
    members.moved_labels = farthest ? memory.take<int>(rows.N) : nullptr;
    members.own_distance = farthest ? memory.take<float>(rows.N) : nullptr;
    members.keys = farthest ? memory.take<unsigned long long>(rows.N) : nullptr;
    members.K = static_cast<int>(K);
    members.farthest = farthest;
    list_members(members, queue);

    const int64_t n_slices = ceil_div(rows.D, MEAN_COLUMNS);
    const MeanArguments means = {
        rows,
        members.members,
        members.starts,
        previous,
        active,
        centroids,
        counts,
        static_cast<int>(K),
        static_cast<int>(n_slices)};
    launch<kernel::cluster_mean>(queue, rows.G * K * n_slices, means);
}

void nearest_members(
    const GroupedRows& rows, const float* centroids, int64_t K, const int32_t* labels, int64_t n, int64_t* picks,
    void* workspace, const Queue& queue) {
    Workspace memory(workspace);
    MembersArguments members = {};
    members.rows = rows;
    members.labels = labels;
    members.members = memory.take<int>(rows.N);
    members.starts = memory.take<int>(rows.G * (K + 1));
    members.K = static_cast<int>(K);
    auto* keys = memory.take<unsigned long long>(rows.N);
    launch<kernel::own_distance_keys>(
        queue, ceil_div(rows.N, SWEEP_THREADS / WARP), {rows, centroids, labels, keys, static_cast<int>(K)});
    list_members(members, queue);
    launch<kernel::pick_nearest>(
        queue, rows.G,
        {rows.offsets, members.members, members.starts, keys, reinterpret_cast<long long*>(picks), static_cast<int>(K),
         static_cast<int>(n)});
}

}  // namespace cuda
}  // namespace dream_accel
