#include "bounded_assignment.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "groups.h"
#include "parallel.h"

namespace dream_accel {
namespace {

constexpr int64_t ALIGN_FLOATS = 16;
constexpr int64_t PANEL_FLOATS = 8 << 20;          // of packed centroids at a time: 32 MB
constexpr int64_t MAX_RECORD_FLOATS = 512L << 20;  // 2 GB
constexpr int64_t ROWS_PER_TASK = 64;
constexpr int64_t MAX_TILE_ROWS = 1024;
constexpr float INF = std::numeric_limits<float>::infinity();

int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

}  // namespace

bool BoundedAssignment::serves(const Rows& rows, int64_t K) {
    const BoundedKernels* kernels = bounded_kernels(K, rows.D);
    return kernels && rows.N * kernels->record_floats(rows.D) <= MAX_RECORD_FLOATS;
}

BoundedAssignment::BoundedAssignment(const Rows& rows, const float* start, int64_t K, int n_threads)
    : isa_(kernels_for_assign(K, rows.D)),
      kernels_(*bounded_kernels(K, rows.D)),
      geometry_(isa_.assign_geometry()),
      rows_(rows),
      K_(K),
      padded_(round_up(K, geometry_.lanes)),
      depth_(round_up(rows.D, geometry_.depth)),
      record_floats_(kernels_.record_floats(rows.D)),
      n_threads_(threads_for(rows.N * K * rows.D / geometry_.lanes, n_threads)),
      scratch_size_(round_up(isa_.assign_scratch(K), ALIGN_FLOATS)),
      wave_(std::clamp<int64_t>(PANEL_FLOATS / (padded_ * depth_), 1, std::max<int64_t>(rows.G, 1))),
      scratch_(make_buffer<float>(scratch_size_ * n_threads_)),
      centres_(make_buffer<float>(rows.G * rows.D)),
      records_(make_buffer<float>(rows.N * record_floats_)),
      panels_(make_buffer<float>(wave_ * padded_ * (depth_ + 1))),
      bounds_(make_buffer<Bounds>(rows.N)),
      needed_(make_buffer<int32_t>(rows.N)),
      sorted_(make_buffer<int32_t>(rows.N)),
      integers_(2 * wave_ * K),
      floats_(2 * wave_ * K),
      pointers_(wave_ * K) {
    std::fill_n(bounds_.get(), rows.N, unknown_bounds());
    std::vector<int64_t> groups(rows.G);
    std::iota(groups.begin(), groups.end(), 0);
    const std::vector<Span> spans = cut(groups.data(), rows.G);
    parallel_for(rows.G, n_threads_, [&](int64_t g, int) {
        const float* own = start + g * K * rows.D;
        std::vector<int32_t> live;
        for (int64_t k = 0; k < K; ++k) {
            if (isa_.all_finite(own + k * rows.D, rows.D)) live.push_back(static_cast<int32_t>(k));
        }
        float* centre = centres_.get() + g * rows.D;
        std::fill_n(centre, rows.D, 0.0f);
        const int64_t n_live = static_cast<int64_t>(live.size());
        if (n_live > 0) isa_.mean_of_rows(own, Dtype::float32, rows.D, live.data(), n_live, 0, rows.D, centre);
    });
    parallel_for(static_cast<int64_t>(spans.size()), n_threads_, [&](int64_t task, int) {
        const Span& span = spans[task];
        kernels_.record_rows(
            rows.row(span.first), rows.dtype, span.last - span.first, rows.D, centres_.get() + span.slot * rows.D,
            records_.get() + span.first * record_floats_);
    });
}

// The rows of n groups, which are in the slots from 0 on, a few at a time.
std::vector<BoundedAssignment::Span> BoundedAssignment::cut(const int64_t* groups, int64_t n) const {
    std::vector<Span> spans;
    for (int64_t slot = 0; slot < n; ++slot) {
        const int64_t end = rows_.offsets[groups[slot] + 1];
        for (int64_t i = rows_.offsets[groups[slot]]; i < end; i += ROWS_PER_TASK) {
            spans.push_back({slot, i, std::min(i + ROWS_PER_TASK, end)});
        }
    }
    return spans;
}

void BoundedAssignment::assign(
    const std::vector<int64_t>& groups, const float* centroids, const float* previous, int32_t* labels) {
    centroids_ = centroids;
    previous_ = previous;
    labels_ = labels;
    const int64_t n = static_cast<int64_t>(groups.size());
    for (int64_t begin = 0; begin < n; begin += wave_) assign_wave(&groups[begin], std::min(wave_, n - begin));
}

void BoundedAssignment::assign_wave(const int64_t* groups, int64_t n) {
    slots_.resize(n);
    parallel_for(n, n_threads_, [&](int64_t index, int) {
        slots_[index].group = groups[index];
        place(slots_[index], index);
        sort_columns(slots_[index]);
    });
    const std::vector<Span> spans = cut(groups, n);
    parallel_for(static_cast<int64_t>(spans.size()), n_threads_, [&](int64_t task, int) {
        const Span& span = spans[task];
        for (int64_t i = span.first; i < span.last; ++i) find_need(slots_[span.slot], i);
    });
    parallel_for(n, n_threads_, [&](int64_t index, int) { sort_rows(slots_[index]); });
    pack();
    compare();
}

void BoundedAssignment::place(Slot& slot, int64_t index) {
    slot.order = &integers_[2 * index * K_];
    slot.column = slot.order + K_;
    slot.shift = &floats_[2 * index * K_];
    slot.moved = slot.shift + K_;
    slot.columns = &pointers_[index * K_];
    slot.norms = panels_.get() + index * padded_ * (depth_ + 1);
    slot.packed = slot.norms + padded_;
}

// Sorts the columns of a group by how far their centroids moved, dead ones last.
void BoundedAssignment::sort_columns(Slot& slot) {
    const int64_t D = rows_.D;
    slot.first_live = static_cast<int32_t>(K_);
    for (int64_t k = K_ - 1; k >= 0; --k) {
        const float *now = centroids_ + (slot.group * K_ + k) * D, *before = previous_ + (slot.group * K_ + k) * D;
        slot.shift[k] = -INF;
        if (!isa_.all_finite(now, D)) continue;
        slot.first_live = static_cast<int32_t>(k);
        slot.shift[k] = 0.0f;
        if (std::equal(now, now + D, before)) continue;
        // A centroid that was dead may appear anywhere.
        const float squared = isa_.row_distance(now, Dtype::float32, before, D);
        slot.shift[k] = std::isnan(squared) ? INF : root_above(squared * (1.0f + sum_slack(D)));
    }
    std::iota(slot.order, slot.order + K_, 0);
    std::stable_sort(slot.order, slot.order + K_, [&](int32_t a, int32_t b) { return slot.shift[a] > slot.shift[b]; });
    for (int64_t column = 0; column < K_; ++column) {
        const int32_t k = slot.order[column];
        slot.column[k] = static_cast<int32_t>(column);
        slot.moved[column] = slot.shift[k];
        slot.columns[column] = slot.shift[k] < 0.0f ? nullptr : centroids_ + (slot.group * K_ + k) * D;
    }
}

// The number of columns, from the first on, whose centroids may be nearer than the row's own.
int64_t BoundedAssignment::columns_needed(const Slot& slot, const Bounds& bounds) const {
    int64_t n = 0;
    while (n < K_ && !(others_after(bounds.others, slot.moved[n]) > bounds.own)) n += geometry_.lanes;
    return std::min(n, K_);
}

void BoundedAssignment::find_need(const Slot& slot, int64_t row) {
    const int32_t label = labels_[row];
    Bounds& bounds = bounds_[row];
    const bool known = bounds.own < INF && slot.shift[label] >= 0.0f;
    bounds.own = known ? own_after(bounds.own, slot.shift[label]) : INF;
    needed_[row] = static_cast<int32_t>(columns_needed(slot, bounds));
}

// Sorts the rows of a group that must be compared with columns, those with most columns first, and updates the bounds
// of the rows that need no comparison.
void BoundedAssignment::sort_rows(Slot& slot) {
    const int64_t first = rows_.offsets[slot.group], n_rows = rows_.size(slot.group);
    const int64_t n_steps = padded_ / geometry_.lanes;
    const auto saved = [&](int64_t i) {
        return n_steps - (needed_[first + i] + geometry_.lanes - 1) / geometry_.lanes;
    };
    std::vector<int32_t> begin(n_steps + 2, 0);
    for (int64_t i = 0; i < n_rows; ++i) ++begin[saved(i) + 1];
    std::partial_sum(begin.begin(), begin.end(), begin.begin());
    slot.n_busy = begin[n_steps];
    int32_t* sorted = sorted_.get() + first;
    for (int64_t i = 0; i < n_rows; ++i) sorted[begin[saved(i)]++] = static_cast<int32_t>(i);
    slot.n_needed = slot.n_busy == 0 ? 0 : needed_[first + sorted[0]];
    for (int64_t i = slot.n_busy; i < n_rows; ++i) {
        float& others = bounds_[first + sorted[i]].others;
        others = others_after(others, slot.moved[0]);
    }
}

void BoundedAssignment::pack() {
    const int64_t panel = 2 * geometry_.lanes, n_panels = (padded_ + panel - 1) / panel;
    parallel_for(static_cast<int64_t>(slots_.size()) * n_panels, n_threads_, [&](int64_t task, int) {
        const Slot& slot = slots_[task / n_panels];
        const int64_t k = task % n_panels * panel;
        if (k >= slot.n_needed) return;
        isa_.pack_panel(
            slot.columns + k, static_cast<int>(std::min(K_ - k, panel)), static_cast<int>(std::min(padded_ - k, panel)),
            rows_.D, centres_.get() + slot.group * rows_.D, slot.packed + k * depth_, slot.norms + k);
    });
}

void BoundedAssignment::compare() {
    int64_t n_busy = 0;
    for (const Slot& slot : slots_) n_busy += slot.n_busy;
    const int64_t share = round_up(n_busy / (8 * n_threads_) + 1, geometry_.row_block);
    const int64_t tile_rows = std::min(share, round_up(MAX_TILE_ROWS, geometry_.row_block));
    std::vector<Span> tiles;
    for (size_t index = 0; index < slots_.size(); ++index) {
        const int64_t end = slots_[index].n_busy;
        for (int64_t i = 0; i < end; i += tile_rows) {
            tiles.push_back({static_cast<int64_t>(index), i, std::min(i + tile_rows, end)});
        }
    }
    parallel_for(static_cast<int64_t>(tiles.size()), n_threads_, [&](int64_t task, int thread) {
        compare_tile(slots_[tiles[task].slot], tiles[task], scratch_.get() + thread * scratch_size_);
    });
}

void BoundedAssignment::compare_tile(const Slot& slot, const Span& span, float* scratch) {
    const int64_t first = rows_.offsets[slot.group], D = rows_.D;
    const int32_t* numbers = sorted_.get() + first + span.first;
    if (slot.first_live == K_) {
        for (int64_t i = 0; i < span.last - span.first; ++i) {
            labels_[first + numbers[i]] = 0;
            bounds_[first + numbers[i]] = unknown_bounds();
        }
        return;
    }
    BoundedTile tile = {};
    tile.group.x = rows_.row(first);
    tile.group.dtype = rows_.dtype;
    tile.group.n_rows = span.last - span.first;
    tile.group.D = D;
    tile.group.K = K_;
    tile.group.centroids = centroids_ + slot.group * K_ * D;
    tile.group.centre = centres_.get() + slot.group * D;
    tile.group.packed = slot.packed;
    tile.group.norms = slot.norms;
    tile.group.first_live = slot.first_live;
    tile.group.labels = labels_ + first;
    tile.group.scratch = scratch;
    tile.records = records_.get() + first * record_floats_;
    tile.rows = numbers;
    tile.n_needed = needed_.get() + first;
    tile.n_packed = slot.n_needed;
    tile.order = slot.order;
    tile.column = slot.column;
    tile.moved = slot.moved;
    tile.bounds = bounds_.get() + first;
    kernels_.compare_tile(tile);
}

}  // namespace dream_accel
