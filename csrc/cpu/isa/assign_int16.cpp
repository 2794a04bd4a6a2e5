// Nearest centroid of every row of a tile, with 16-bit integers.
#include <type_traits>

#include "int16.h"
#include "transpose.h"

namespace dream_accel {
namespace DREAM_ISA {
namespace {

template <class T>
void assign_part(const AssignTile& tile, const FloatRows<T>& part, Largest largest, int32_t* labels, float* distance) {
    int32_t* rows = reinterpret_cast<int32_t*>(tile.scratch);
    float* scores = tile.scratch + PART_ROWS * PAIRS;
    const int64_t padded = round_up(tile.K, PANEL), stride = columns_at_a_time(tile.K);
    Nearest nearest[PART_ROWS];
    for (int i = 0; i < part.n_rows; ++i) nearest[i] = {__builtin_inff(), NOT_COMPUTED, NOBODY};
    for (int64_t first = 0; first < padded; first += COLUMNS) {
        const int64_t n_columns = smaller(padded - first, COLUMNS);
        score_columns(tile, part, first, n_columns, rows, scores);
        for (int i = 0; i < part.n_rows; ++i) {
            const float margin = 2.0f * score_error(part.sizes.squares[i], part.sizes.errors[i], largest);
            take_up(tile, part.row[i], scores + i * stride, first, n_columns, margin, nearest[i]);
        }
    }
    write_nearest(tile, part.row[0], part.n_rows, nearest, labels, distance);
}

template <class T>
void assign_typed_tile(const AssignTile& tile) {
    const T* x = static_cast<const T*>(tile.x);
    const Largest largest = largest_of(tile, tile.K);
    Sizes sizes;
    for (int64_t i = 0; i < tile.n_rows; i += PART_ROWS) {
        const int64_t left = tile.n_rows - i;
        const T* row[2 * PART_ROWS];
        for (int64_t m = 0; m < smaller(left, 2 * PART_ROWS); ++m) row[m] = x + (i + m) * tile.D;
        const int n_rows = static_cast<int>(smaller(left, PART_ROWS));
        const int n_next = static_cast<int>(smaller(left - n_rows, PART_ROWS));
        assign_part(
            tile, FloatRows<T>{row, n_rows, n_next, tile.centre, sizes}, largest, tile.labels + i,
            tile.distance ? tile.distance + i : nullptr);
    }
}

}  // namespace

AssignGeometry assign_geometry() { return {PANEL, ROWS, DEPTH}; }

int64_t assign_scratch(int64_t K) { return PART_ROWS * (PAIRS + columns_at_a_time(K)); }

void assign_tile(const AssignTile& tile) {
    with_type(tile.dtype, [&](auto* type) {
        assign_typed_tile<std::remove_const_t<std::remove_pointer_t<decltype(type)>>>(tile);
    });
}

void pack_panel(
    const float* const* centroids, int n, int width, int64_t D, const float* centre, float* packed, float* norms) {
    for (int first = 0; first < width; first += W) {
        float* panel = packed + first / PANEL * PANEL * round_up(D, DEPTH);
        const int column = first % PANEL;
        float squares[W] = {}, errors[W] = {};
        for (int64_t d = 0; d < D; d += DEPTH) {
            const int depth = static_cast<int>(smaller(D - d, DEPTH));
            alignas(VECTOR_BYTES) int32_t pairs[W][PAIRS] = {};
            float* block = panel + PANEL + d / DEPTH * BLOCK_WORDS + column;
            for (int j = 0; j < W; ++j) {
                const int k = first + j;
                block[j] = 0.0f;
                if (k >= n || !centroids[k]) continue;
                const Rounded rounded = round_row(centroids[k] + d, centre + d, depth, pairs[j]);
                block[j] = -2.0f * rounded.step;
                squares[j] += rounded.squares;
                errors[j] += 4.0f * rounded.error();
            }
            const int n_pairs = static_cast<int>(round_up(depth, STEP)) / 2;
            for (int p = 0; p < n_pairs; p += W) {
                vf words[W];
                for (int j = 0; j < W; ++j) words[j] = load_as<vf>(&pairs[j][p]);
                transpose(words);
                for (int i = 0; i < W; ++i) store_as(block + (1 + p + i) * PANEL, words[i]);
            }
        }
        for (int j = 0; j < W; ++j) {
            const int k = first + j;
            panel[column + j] = __builtin_sqrtf(errors[j]);
            norms[k] = k < n && centroids[k] ? squares[j] : __builtin_inff();
        }
    }
}

}  // namespace DREAM_ISA
}  // namespace dream_accel
