// Nearest centroid of every row of a tile.
//
//   argmin_k |x - c_k|^2  =  argmin_k |c_k|^2 - 2 x.c_k
//
// with x and c_k both relative to the group's centre. The products are a blocked matrix product: ROWS rows by DEPTH
// columns of x are converted and centred into scratch that stays in the first-level cache while all panels of centroids
// pass by, the same columns of the panels stay in the second while all rows of a part of the tile pass by, and the
// scores of that part are all that is ever stored.
#include <type_traits>

#include "distance.h"
#include "functions.h"
#include "panel_product.h"
#include "simd.h"
#include "transpose.h"

namespace dream_accel {
namespace DREAM_ISA {
namespace {

constexpr int64_t COLUMNS = 512;          // centroids whose scores are kept at a time
constexpr int64_t PRODUCT_COLUMNS = 128;  // of which DEPTH features stay in the second-level cache
constexpr int64_t CACHE = 6 << 18;        // bytes of the second-level cache to count on

template <class I>
DREAM_INLINE I smaller(I a, I b) {
    return b < a ? b : a;
}

// Lowers best and label of a row by n_columns scores, the first of which belongs to centroid first. Ties keep the
// lowest.
DREAM_INLINE void argmin(
    const float* scores, const float* norms, int64_t n_columns, int32_t first, float& best, int32_t& label) {
    vf least = broadcast(__builtin_inff());
    vi where = broadcast(INT32_MAX);
    vi column = broadcast(first);
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i) column[i] += i;
    for (int64_t k = 0; k < n_columns; k += W) {
        const vf score = load(norms + k) + load(scores + k);
        const vi better = score < least;
        least = better ? score : least;
        where = better ? column : where;
        column += W;
    }
    const float low = reduce_lanes(least, [](vf a, vf b) { return b < a ? b : a; })[0];
    where = least == broadcast(low) ? where : broadcast(INT32_MAX);
    const int32_t lowest = reduce_lanes(where, [](vi a, vi b) { return b < a ? b : a; })[0];
    if (low < best) {
        best = low;
        label = lowest;
    }
}

int64_t columns_at_a_time(int64_t K) {
    const int64_t padded = (K + W - 1) / W * W;
    return padded < COLUMNS ? padded : COLUMNS;
}

// Some rows of the tile in hand.
template <class T>
struct Part {
    const T* x;
    int n_rows;
    const T* next;  // rows that come after it
    int n_next;
};

// The rows whose columns are needed after columns d of rows i of the part.
template <class T>
struct Upcoming {
    const T* x;
    int n_rows;
};

template <class T>
DREAM_INLINE Upcoming<T> upcoming(const Part<T>& part, int i, int64_t d, int64_t D) {
    if (i + ROWS < part.n_rows) return {part.x + (i + ROWS) * D + d, smaller(part.n_rows - i - ROWS, ROWS)};
    if (d + DEPTH < D) return {part.x + d + DEPTH, smaller(part.n_rows, ROWS)};
    return {part.next, smaller(part.n_next, ROWS)};
}

// Writes the products of the rows with centroids [first, first + n_columns) into scores.
template <class T>
void score_columns(
    const AssignTile& tile, const Part<T>& part, int64_t first, int64_t n_columns, float* rows, float* scores) {
    const int64_t D = tile.D, stride = columns_at_a_time(tile.K);
    const int n_panels = static_cast<int>((n_columns + PANEL - 1) / PANEL);
    const int share = (ROWS + n_panels - 1) / n_panels;
    for (int64_t d = 0; d < D; d += DEPTH) {
        const int depth = static_cast<int>(D - d < DEPTH ? D - d : DEPTH);
        for (int i = 0; i < part.n_rows; i += ROWS) {
            const int m = smaller(part.n_rows - i, ROWS);
            centre_rows(part.x + i * D + d, D, m, depth, tile.centre + d, rows);
            const Upcoming<T> soon = upcoming(part, i, d, D);
            for (int64_t k = 0; k < n_columns; k += PANEL) {
                // The panels share the fetching of the rows that come next.
                const int from = static_cast<int>(k / PANEL) * share;
                const Prefetch prefetch = {
                    reinterpret_cast<const char*>(soon.x + from * D), D * static_cast<int64_t>(sizeof(T)),
                    smaller(share, soon.n_rows - from)};
                const int width = n_columns - k > W ? PANEL : W;
                const float* panel = tile.packed + (first + k) * D + d * width;
                float* block = scores + i * stride + k;
                if (width == PANEL) {
                    multiply_up_to<2>(m, rows, panel, depth, block, stride, d > 0, prefetch);
                } else {
                    multiply_up_to<1>(m, rows, panel, depth, block, stride, d > 0, prefetch);
                }
            }
        }
    }
}

template <class T>
void assign_part(const AssignTile& tile, const Part<T>& part, int32_t* labels, float* distance) {
    float best[PART_ROWS];
    float* rows = tile.scratch;
    float* scores = rows + ROWS * STRIDE;
    const int64_t padded = (tile.K + W - 1) / W * W, stride = columns_at_a_time(tile.K);
    for (int i = 0; i < part.n_rows; ++i) {
        labels[i] = tile.first_live;
        best[i] = __builtin_inff();
    }
    for (int64_t first = 0; first < padded; first += COLUMNS) {
        const int64_t n_columns = padded - first < COLUMNS ? padded - first : COLUMNS;
        score_columns<T>(tile, part, first, n_columns, rows, scores);
        for (int i = 0; i < part.n_rows; ++i) {
            argmin(scores + i * stride, tile.norms + first, n_columns, static_cast<int32_t>(first), best[i], labels[i]);
        }
    }
    if (!distance) return;
    for (int i = 0; i < part.n_rows; ++i) {
        const float found = distance_between(part.x + i * tile.D, tile.centroids + labels[i] * tile.D, tile.D);
        distance[i] = found == found ? found : __builtin_inff();
    }
}

// Rows to take at a time: where the centroids leave room in the second-level cache, so few that they are still there
// when their distances are computed.
int64_t rows_at_a_time(int64_t K, int64_t D, int64_t element_size) {
    const int64_t room = CACHE - K * D * 4;
    const int64_t fitting = room / (D * element_size) / ROWS * ROWS;
    return room < CACHE / 4 || fitting > PART_ROWS ? PART_ROWS : fitting < ROWS ? ROWS : fitting;
}

template <class T>
void assign_typed_tile(const AssignTile& tile) {
    const T* x = static_cast<const T*>(tile.x);
    const int64_t step = rows_at_a_time(tile.K, tile.D, sizeof(T));
    for (int64_t i = 0; i < tile.n_rows; i += step) {
        const int64_t left = tile.n_rows - i, next = left - step;
        Part<T> part;
        part.x = x + i * tile.D;
        part.n_rows = static_cast<int>(smaller(left, step));
        part.next = part.x + step * tile.D;
        part.n_next = static_cast<int>(next < 0 ? 0 : smaller(next, step));
        assign_part(tile, part, tile.labels + i, tile.distance ? tile.distance + i : nullptr);
    }
}

template <class T>
void multiply_typed_tile(const AssignTile& tile, float* out, int64_t out_stride) {
    float* rows = tile.scratch;
    float* scores = rows + ROWS * STRIDE;
    const int64_t padded = (tile.K + W - 1) / W * W, stride = columns_at_a_time(tile.K);
    for (int64_t i = 0; i < tile.n_rows; i += PART_ROWS) {
        const T* x = static_cast<const T*>(tile.x) + i * tile.D;
        const int n_rows = static_cast<int>(smaller<int64_t>(tile.n_rows - i, PART_ROWS));
        const Part<T> part = {x, n_rows, x, 0};
        for (int64_t first = 0; first < padded; first += PRODUCT_COLUMNS) {
            score_columns<T>(tile, part, first, smaller<int64_t>(padded - first, PRODUCT_COLUMNS), rows, scores);
            const int64_t n_wanted = smaller<int64_t>(tile.K - first, PRODUCT_COLUMNS);
            for (int m = 0; m < n_rows; ++m) {
                float* row = out + (i + m) * out_stride + first;
                for (int64_t k = 0; k < n_wanted; ++k) row[k] = -0.5f * scores[m * stride + k];
            }
        }
    }
}

}  // namespace

AssignGeometry assign_geometry() { return {W, ROWS, 1}; }

int64_t assign_scratch(int64_t K) { return ROWS * STRIDE + PART_ROWS * columns_at_a_time(K); }

void assign_tile(const AssignTile& tile) {
    switch (tile.dtype) {
        case Dtype::float32:
            return assign_typed_tile<float>(tile);
        case Dtype::float16:
            return assign_typed_tile<Float16>(tile);
        case Dtype::bfloat16:
            return assign_typed_tile<BFloat16>(tile);
    }
}

void multiply_tile(const AssignTile& tile, float* out, int64_t stride) {
    with_type(tile.dtype, [&](auto* type) {
        multiply_typed_tile<std::remove_cv_t<std::remove_pointer_t<decltype(type)>>>(tile, out, stride);
    });
}

// Panels in the order multiply reads them: packed[d * width + j] = -2 (c_j[d] - centre[d]).
void pack_panel(
    const float* const* centroids, int n, int width, int64_t D, const float* centre, float* packed, float* norms) {
    for (int first = 0; first < width; first += W) {
        vf norm = {};
        for (int64_t d = 0; d < D; d += W) {
            const vf shift = load_at(centre, d, D);
            vf block[W];
            for (int j = 0; j < W; ++j) {
                const int k = first + j;
                block[j] = k < n && centroids[k] ? -2.0f * (load_at(centroids[k], d, D) - shift) : vf{};
            }
            transpose(block);
            vf sum = {};
#pragma GCC unroll 16
            for (int i = 0; i < W; ++i) sum += block[i] * block[i];
            norm += sum;
            const int n_valid = static_cast<int>(D - d < W ? D - d : W);
            for (int i = 0; i < n_valid; ++i) store_as(packed + (d + i) * width + first, block[i]);
        }
        for (int j = 0; j < W; ++j) {
            const int k = first + j;
            norms[k] = k < n && centroids[k] ? 0.25f * norm[j] : __builtin_inff();
        }
    }
}

}  // namespace DREAM_ISA
}  // namespace dream_accel
