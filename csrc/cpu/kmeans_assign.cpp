// Assignment: prepares the centroids of as many groups as fit a fixed amount of memory, then their rows tile by tile.
#include <algorithm>
#include <limits>
#include <vector>

#include "buffer.h"
#include "groups.h"
#include "isa/kernels.h"
#include "operators.h"
#include "parallel.h"

namespace dream_accel {
namespace {

constexpr int64_t WAVE_FLOATS = 8 << 20;  // of prepared centroids: 32 MB
constexpr int64_t ALIGN_FLOATS = 16;
constexpr int64_t POINTER_BYTES = sizeof(const float*), POINTER_FLOATS = POINTER_BYTES / sizeof(float);
constexpr int64_t MAX_TILE_ROWS = 1024;

int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// Where the prepared centroids of one group lie in the wave's buffer.
struct Prepared {
    int64_t group;
    float *centre, *norms, *packed;
    const float** columns;  // the centroids, null where one is dead
    int32_t* live_rows;
    int32_t n_live;
};

struct Tile {
    int64_t slot;  // in the wave
    int64_t first, last;
};

class Assignment {
public:
    Assignment(const Rows& rows, const float* centroids, int64_t K, int32_t* labels, float* distance, int n_threads)
        : isa_(kernels_for_assign(K, rows.D)),
          geometry_(isa_.assign_geometry()),
          rows_(rows),
          centroids_(centroids),
          K_(K),
          padded_(round_up(K, geometry_.lanes)),
          depth_(round_up(rows.D, geometry_.depth)),
          labels_(labels),
          distance_(distance),
          n_threads_(threads_for(rows.N * K * rows.D / geometry_.lanes, n_threads)),
          scratch_size_(round_up(isa_.assign_scratch(K), ALIGN_FLOATS)),
          scratch_(make_buffer<float>(scratch_size_ * n_threads_)) {}

    void run(const std::vector<int64_t>& groups) {
        const int64_t n = static_cast<int64_t>(groups.size());
        const int64_t wave = std::clamp<int64_t>(WAVE_FLOATS / group_floats(), 1, std::max<int64_t>(n, 1));
        buffer_ = make_buffer<float>(wave * group_floats());
        for (int64_t begin = 0; begin < n; begin += wave) {
            prepare(&groups[begin], std::min(wave, n - begin));
            assign();
        }
    }

private:
    int64_t group_floats() const {
        return round_up(rows_.D, ALIGN_FLOATS) + (2 + POINTER_FLOATS) * round_up(padded_, ALIGN_FLOATS) +
               round_up(padded_ * depth_, ALIGN_FLOATS);
    }

    Prepared place(int64_t slot, int64_t group) const {
        const int64_t n_columns = round_up(padded_, ALIGN_FLOATS);
        Prepared p;
        p.group = group;
        p.centre = buffer_.get() + slot * group_floats();
        p.norms = p.centre + round_up(rows_.D, ALIGN_FLOATS);
        p.live_rows = reinterpret_cast<int32_t*>(p.norms + n_columns);
        p.columns = reinterpret_cast<const float**>(p.norms + 2 * n_columns);
        p.packed = p.norms + (2 + POINTER_FLOATS) * n_columns;
        p.n_live = 0;
        return p;
    }

    void prepare(const int64_t* groups, int64_t n) {
        const int64_t D = rows_.D, panel = 2 * geometry_.lanes, panels = (padded_ + panel - 1) / panel;
        wave_.resize(n);
        parallel_for(n, n_threads_, [&](int64_t slot, int) {
            Prepared& p = wave_[slot] = place(slot, groups[slot]);
            const float* c = centroids_ + p.group * K_ * D;
            for (int64_t k = 0; k < K_; ++k) {
                const bool live = isa_.all_finite(c + k * D, D);
                p.columns[k] = live ? c + k * D : nullptr;
                if (live) p.live_rows[p.n_live++] = static_cast<int32_t>(k);
            }
            isa_.mean_of_rows(c, Dtype::float32, D, p.live_rows, p.n_live, 0, D, p.centre);
        });
        parallel_for(n * panels, n_threads_, [&](int64_t task, int) {
            const Prepared& p = wave_[task / panels];
            const int64_t k = task % panels * panel;
            const int n_columns = static_cast<int>(std::min(K_ - k, panel));
            const int width = static_cast<int>(std::min(padded_ - k, panel));
            isa_.pack_panel(p.columns + k, n_columns, width, D, p.centre, p.packed + k * depth_, p.norms + k);
        });
    }

    void assign() {
        int64_t n_rows = 0;
        for (const Prepared& p : wave_) n_rows += rows_.size(p.group);
        // Tiles small enough that every thread gets several, large enough that the rows of the next can be fetched
        // ahead.
        const int64_t share = round_up(n_rows / (8 * n_threads_) + 1, geometry_.row_block);
        const int64_t tile_rows = std::min<int64_t>(share, MAX_TILE_ROWS / geometry_.row_block * geometry_.row_block);
        tiles_.clear();
        for (size_t slot = 0; slot < wave_.size(); ++slot) {
            const int64_t end = rows_.offsets[wave_[slot].group + 1];
            for (int64_t i = rows_.offsets[wave_[slot].group]; i < end; i += tile_rows) {
                tiles_.push_back({static_cast<int64_t>(slot), i, std::min(i + tile_rows, end)});
            }
        }
        parallel_for(static_cast<int64_t>(tiles_.size()), n_threads_, [&](int64_t task, int thread) {
            assign_tile(tiles_[task], scratch_.get() + thread * scratch_size_);
        });
    }

    void assign_tile(const Tile& t, float* scratch) const {
        const Prepared& p = wave_[t.slot];
        // Without features every row is on every centroid; without live centroids it is infinitely far from all.
        if (p.n_live == 0 || rows_.D == 0) {
            const float same = p.n_live == 0 ? std::numeric_limits<float>::infinity() : 0.0f;
            std::fill(labels_ + t.first, labels_ + t.last, 0);
            if (distance_) std::fill(distance_ + t.first, distance_ + t.last, same);
            return;
        }
        AssignTile tile;
        tile.x = rows_.row(t.first);
        tile.dtype = rows_.dtype;
        tile.n_rows = t.last - t.first;
        tile.D = rows_.D;
        tile.K = K_;
        tile.centroids = centroids_ + p.group * K_ * rows_.D;
        tile.centre = p.centre;
        tile.packed = p.packed;
        tile.norms = p.norms;
        tile.first_live = p.live_rows[0];
        tile.labels = labels_ + t.first;
        tile.distance = distance_ ? distance_ + t.first : nullptr;
        tile.scratch = scratch;
        isa_.assign_tile(tile);
    }

    const Kernels& isa_;
    const AssignGeometry geometry_;
    const Rows& rows_;
    const float* centroids_;
    const int64_t K_, padded_, depth_;
    int32_t* labels_;
    float* distance_;
    const int n_threads_;
    const int64_t scratch_size_;
    Buffer<float> scratch_, buffer_;
    std::vector<Prepared> wave_;
    std::vector<Tile> tiles_;
};

}  // namespace

void kmeans_assign(
    const Rows& rows, const float* centroids, int64_t K, const uint8_t* active, const int32_t* previous_labels,
    const float* previous_distance, int32_t* labels, float* distance, int n_threads) {
    check_offsets(rows);
    std::vector<int64_t> groups;
    for (int64_t g = 0; g < rows.G; ++g) {
        if (rows.size(g) == 0) continue;
        if (!active || active[g]) {
            groups.push_back(g);
        } else {
            std::copy_n(previous_labels + rows.offsets[g], rows.size(g), labels + rows.offsets[g]);
            if (distance) std::copy_n(previous_distance + rows.offsets[g], rows.size(g), distance + rows.offsets[g]);
        }
    }
    if (!groups.empty()) Assignment(rows, centroids, K, labels, distance, n_threads).run(groups);
}

}  // namespace dream_accel
