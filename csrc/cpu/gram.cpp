// Products of the rows of a group, and the assignment they allow.
#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "buffer.h"
#include "groups.h"
#include "isa/kernels.h"
#include "operators.h"
#include "parallel.h"

namespace dream_accel {
namespace {

constexpr int64_t TILE_ROWS = 64;     // about; results must not depend on the number of threads, nor do tiles
constexpr int64_t TILE_COLUMNS = 64;  // of gram_assign
constexpr int64_t ALIGN_FLOATS = 16;

int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// The rows of x of one group, packed as centroids are, and products with them.
class GroupProducts {
public:
    GroupProducts(const Rows& a, const Rows& x, const float* centre, int64_t width, float* out, int n_threads)
        : a_(a), x_(x), centre_(centre), width_(width), out_(out), n_threads_(n_threads) {}

    void run(int64_t g) {
        const int64_t n = x_.size(g), D = x_.D;
        const FloatProducts products = float_products();
        const Kernels& isa = products.table;
        const AssignGeometry geometry = isa.assign_geometry();
        const int64_t padded = round_up(n, geometry.lanes), panel = 2 * geometry.lanes;
        const int64_t scratch_size = round_up(isa.assign_scratch(n), ALIGN_FLOATS);
        auto packed = make_buffer<float>(padded * round_up(D, geometry.depth));
        auto norms = make_buffer<float>(padded);
        auto columns = make_buffer<const float*>(n);
        auto scratch = make_buffer<float>(scratch_size * n_threads_);
        for (int64_t i = 0; i < n; ++i) columns[i] = static_cast<const float*>(x_.row(x_.offsets[g] + i));
        const float* centre = centre_ + g * D;
        const int64_t depth = round_up(D, geometry.depth);
        parallel_for((padded + panel - 1) / panel, n_threads_, [&](int64_t task, int) {
            const int64_t k = task * panel;
            isa.pack_panel(
                columns.get() + k, static_cast<int>(std::min(n - k, panel)),
                static_cast<int>(std::min(padded - k, panel)), D, centre, packed.get() + k * depth, norms.get() + k);
        });

        const bool symmetric = a_.x == x_.x;
        const int64_t first = a_.offsets[g], n_a = a_.size(g);
        const int64_t tile_rows = round_up(TILE_ROWS, geometry.row_block);
        parallel_for((n_a + tile_rows - 1) / tile_rows, n_threads_, [&](int64_t task, int slot) {
            const int64_t i = task * tile_rows, last = std::min(i + tile_rows, n_a);
            AssignTile tile = {};
            tile.x = a_.row(first + i);
            tile.dtype = a_.dtype;
            tile.n_rows = last - i;
            tile.D = D;
            // Whole panels: the last one may be laid out differently.
            tile.K = symmetric ? std::min(n, round_up(last, panel)) : n;
            tile.centre = centre;
            tile.packed = packed.get();
            tile.scratch = scratch.get() + slot * scratch_size;
            float* out = out_ + (first + i) * width_;
            products.multiply_tile(tile, out, width_);
            if (symmetric) mirror(out_ + first * width_, i, last);
            for (int64_t r = i; r < last; ++r) {
                std::fill(out_ + (first + r) * width_ + n, out_ + (first + r + 1) * width_, 0.0f);
            }
        });
    }

private:
    // Copies what lies below the diagonal of rows [from, to) above it.
    void mirror(float* gram, int64_t from, int64_t to) const {
        for (int64_t k = 0; k < to; ++k) {
            for (int64_t i = std::max(from, k + 1); i < to; ++i) gram[k * width_ + i] = gram[i * width_ + k];
        }
    }

    const Rows &a_, &x_;
    const float* centre_;
    const int64_t width_;
    float* out_;
    const int n_threads_;
};

}  // namespace

void group_products(const Rows& a, const Rows& x, const float* centre, int64_t width, float* out, int n_threads) {
    check_offsets(a);
    check_offsets(x);
    if (x.dtype != Dtype::float32) throw std::invalid_argument("x must be float32");
    for (int64_t g = 0; g < x.G; ++g) {
        if (x.size(g) > width) {
            throw std::invalid_argument(
                "group " + std::to_string(g) + " has " + std::to_string(x.size(g)) + " rows: width is " +
                std::to_string(width) + " and must be at least that");
        }
        if (a.size(g) == 0) continue;
        const int threads = threads_for(a.size(g) * x.size(g) * x.D / 8, n_threads);
        GroupProducts(a, x, centre, width, out, threads).run(g);
    }
}

void gram_assign(
    const int64_t* offsets, int64_t G, const float* products, const float* norms, int64_t K, int64_t width,
    const uint8_t* active, const int32_t* previous_labels, int32_t* labels, int n_threads) {
    struct Task {
        int64_t group, first;
    };
    std::vector<Task> tasks;
    for (int64_t g = 0; g < G; ++g) {
        if (!active[g]) {
            std::copy(previous_labels + offsets[g], previous_labels + offsets[g + 1], labels + offsets[g]);
            continue;
        }
        for (int64_t i = 0; i < offsets[g + 1] - offsets[g]; i += TILE_COLUMNS) tasks.push_back({g, i});
    }
    n_threads = threads_for(static_cast<int64_t>(tasks.size()) * TILE_COLUMNS * K / 4, n_threads);
    parallel_for(static_cast<int64_t>(tasks.size()), n_threads, [&](int64_t t, int) {
        const auto [g, first] = tasks[t];
        const int64_t n = std::min(TILE_COLUMNS, offsets[g + 1] - offsets[g] - first);
        float best[TILE_COLUMNS];
        int32_t* label = labels + offsets[g] + first;
        std::fill_n(best, n, std::numeric_limits<float>::infinity());
        std::fill_n(label, n, 0);
        for (int64_t k = 0; k < K; ++k) {
            const float* product = products + (g * K + k) * width + first;
            const float norm = norms[g * K + k];
            for (int64_t i = 0; i < n; ++i) {
                const float score = norm - 2.0f * product[i];
                const bool closer = score < best[i];
                best[i] = closer ? score : best[i];
                label[i] = closer ? static_cast<int32_t>(k) : label[i];
            }
        }
    });
}

}  // namespace dream_accel
