// Nearest centroid with the matrix tiles of recent Xeons (AMX), which multiply bfloat16 fifteen times as fast as
// vectors multiply float.
//
// Float accuracy comes from two steps. Every number is split into two bfloat16, x = x_high + x_low + x_rest with
// |x_rest| <= 2^-18 |x|, and three products are taken: x_high c_high + x_high c_low + x_low c_high. What they leave out
// is below 2^-16 |x||c|; BETA is twice that, to leave room for the rounding of the sums. So the nearest centroid is
// among those whose score is within 4 BETA |x| max |c| of the lowest. Usually that is one; the true distances, in
// float, decide between several.
#include <immintrin.h>

#include "functions.h"
#include "nearest.h"
#include "simd.h"
#include "transpose.h"

namespace dream_accel {
namespace DREAM_ISA {
namespace {

constexpr float BETA = 0x1p-15f;
constexpr int SIDE = 16;            // rows of a tile, and 4-byte columns
constexpr int STEP = 2 * SIDE;      // bfloat16 in a row of a tile
constexpr int TILE = SIDE * SIDE;   // floats (4-byte words) in a tile
constexpr int BLOCK = 2 * SIDE;     // rows and centroids multiplied at a time
constexpr int DEPTH = 128;          // features multiplied at a time: their tiles stay in the first-level cache
constexpr int64_t COLUMNS = 512;    // centroids whose scores are kept at a time
constexpr int64_t CHUNK = 2048;     // features converted at a time: their tiles stay in the second-level cache,
constexpr int64_t CACHE = 1 << 18;  // and so do this many words of centroids
constexpr int PART_ROWS = 4 * BLOCK;
constexpr int AHEAD = 1 << 14;  // bytes

struct alignas(64) TileConfig {
    uint8_t palette = 1;
    uint8_t start_row = 0;
    uint8_t reserved[14] = {};
    uint16_t bytes_per_row[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

typedef uint16_t vhh __attribute__((vector_size(VECTOR_BYTES)));  // 32 bfloat16

DREAM_INLINE vhh narrow(vf first, vf second) { return (vhh)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first); }

template <int FROM, size_t... LANE>
DREAM_INLINE vf widen(vhh v, std::index_sequence<LANE...>) {
    return (vf)(__builtin_convertvector(__builtin_shufflevector(v, v, (FROM + LANE)...), vu) << 16);
}

struct Split {
    vhh high, low;
};

DREAM_INLINE Split split(vf first, vf second) {
    const vhh high = narrow(first, second);
    return {high, narrow(first - widen<0>(high, every_lane()), second - widen<W>(high, every_lane()))};
}

// Rows to tiles: for every STEP features and every SIDE rows one tile of high parts, then one of low parts.
// norms[i] += the row's squares.
template <class T>
void split_rows(const T* x, int64_t stride, int n_rows, int depth, const float* centre, float* tiles, float* norms) {
    // Rows ahead that are being fetched meanwhile, about 16 KB; converting would otherwise wait for every line.
    const int64_t ahead = stride * (1 + AHEAD / static_cast<int>(sizeof(T)) / depth);
    for (int i = 0; i < n_rows; ++i) {
        vf norm = {};
        float* row = tiles + i / SIDE * 2 * TILE + i % SIDE * SIDE;
        for (int d = 0; d < depth; d += STEP) {
            __builtin_prefetch(x + i * stride + d + ahead, 0, 2);
            __builtin_prefetch(x + i * stride + d + ahead + W, 0, 2);
            vf first, second = {};
            first = load_at(x + i * stride, d, depth) - load_at(centre, d, depth);
            if (d + W < depth) second = load_at(x + i * stride, d + W, depth) - load_at(centre, d + W, depth);
            norm += first * first + second * second;
            const Split parts = split(first, second);
            store_as(row + d / STEP * 4 * TILE, parts.high);
            store_as(row + d / STEP * 4 * TILE + TILE, parts.low);
        }
        norms[i] += sum_lanes(norm);
    }
}

// scores (R x SIDE rows, C x SIDE columns) = or += rows * panel over n_steps * STEP features.
template <int R, int C>
void multiply(const float* rows, const float* panel, int n_steps, float* scores, int64_t scores_stride, bool add) {
    // GCC does not know which memory the tile instructions read and write either.
    asm volatile("" ::: "memory");
    const int64_t bytes = scores_stride * 4;
    float* below = scores + SIDE * scores_stride;
    if (add) {
        _tile_loadd(0, scores, bytes);
        if constexpr (C == 2) _tile_loadd(1, scores + SIDE, bytes);
        if constexpr (R == 2) _tile_loadd(2, below, bytes);
        if constexpr (R == 2 && C == 2) _tile_loadd(3, below + SIDE, bytes);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int step = 0; step < n_steps; ++step) {
        // x_low c_high
        _tile_loadd(6, panel, 64);
        _tile_loadd(4, rows + TILE, 64);
        _tile_dpbf16ps(0, 4, 6);
        if constexpr (C == 2) {
            _tile_loadd(7, panel + TILE, 64);
            _tile_dpbf16ps(1, 4, 7);
        }
        if constexpr (R == 2) {
            _tile_loadd(5, rows + 3 * TILE, 64);
            _tile_dpbf16ps(2, 5, 6);
            if constexpr (C == 2) _tile_dpbf16ps(3, 5, 7);
        }
        // x_high c_high
        _tile_loadd(4, rows, 64);
        _tile_dpbf16ps(0, 4, 6);
        if constexpr (C == 2) _tile_dpbf16ps(1, 4, 7);
        if constexpr (R == 2) {
            _tile_loadd(5, rows + 2 * TILE, 64);
            _tile_dpbf16ps(2, 5, 6);
            if constexpr (C == 2) _tile_dpbf16ps(3, 5, 7);
        }
        // x_high c_low
        _tile_loadd(6, panel + C * TILE, 64);
        _tile_dpbf16ps(0, 4, 6);
        if constexpr (R == 2) _tile_dpbf16ps(2, 5, 6);
        if constexpr (C == 2) {
            _tile_loadd(7, panel + 3 * TILE, 64);
            _tile_dpbf16ps(1, 4, 7);
            if constexpr (R == 2) _tile_dpbf16ps(3, 5, 7);
        }
        rows += 4 * TILE;
        panel += 2 * C * TILE;
    }
    _tile_stored(0, scores, bytes);
    if constexpr (C == 2) _tile_stored(1, scores + SIDE, bytes);
    if constexpr (R == 2) _tile_stored(2, below, bytes);
    if constexpr (R == 2 && C == 2) _tile_stored(3, below + SIDE, bytes);
    asm volatile("" ::: "memory");
}

int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

int64_t columns_at_a_time(int64_t K) { return K < COLUMNS ? round_up(K, SIDE) : COLUMNS; }

int64_t smaller(int64_t a, int64_t b) { return b < a ? b : a; }

// Features to take of all rows of a part before any more, so that the centroids' are fetched once.
int64_t chunk_of(int64_t K) {
    const int64_t fitting = CACHE / columns_at_a_time(K) / DEPTH * DEPTH;
    return fitting < CHUNK ? fitting : CHUNK;
}

// scores (n_rows, n_columns) = or += the products of rows with a panel's centroids from feature d on.
void multiply_block(
    int n_rows, int64_t n_columns, const float* rows, const float* panel, int n_steps, float* scores, int64_t stride,
    bool add) {
    if (n_rows > SIDE) {
        if (n_columns > SIDE) return multiply<2, 2>(rows, panel, n_steps, scores, stride, add);
        return multiply<2, 1>(rows, panel, n_steps, scores, stride, add);
    }
    if (n_columns > SIDE) return multiply<1, 2>(rows, panel, n_steps, scores, stride, add);
    return multiply<1, 1>(rows, panel, n_steps, scores, stride, add);
}

// Adds features [d, d + depth) of n_rows rows to the scores, less |c|^2, of centroids [first, first + n_columns), and
// to the rows' squared norms.
template <class T>
void score_block(
    const AssignTile& tile, const T* x, int n_rows, int64_t d, int depth, int64_t first, int64_t n_columns, float* rows,
    float* scores, float* norms) {
    const int64_t padded_D = round_up(tile.D, STEP), stride = columns_at_a_time(tile.K);
    split_rows(x + d, tile.D, n_rows, depth, tile.centre + d, rows, norms);
    for (int begin = 0; begin < depth; begin += DEPTH) {
        const int n_steps = static_cast<int>((smaller(depth - begin, DEPTH) + STEP - 1) / STEP);
        for (int64_t k = 0; k < n_columns; k += BLOCK) {
            const int width = n_columns - k > SIDE ? BLOCK : SIDE;
            const float* panel = tile.packed + (first + k) * padded_D + (d + begin) * width;
            multiply_block(n_rows, width, rows + begin * BLOCK, panel, n_steps, scores + k, stride, d + begin > 0);
        }
    }
}

float largest_norm(const AssignTile& tile) {
    float largest = 0.0f;
    for (int64_t k = 0; k < tile.K; ++k) {
        const float norm = tile.norms[k];
        if (norm > largest && norm < __builtin_inff()) largest = norm;
    }
    return largest;
}

template <class T>
void assign_part(const AssignTile& tile, const T* x, int n_rows, float largest, int32_t* labels, float* distance) {
    float* rows = tile.scratch;
    float* scores = rows + BLOCK * CHUNK;
    const int64_t D = tile.D, padded = round_up(tile.K, SIDE), stride = columns_at_a_time(tile.K);
    const int64_t chunk = chunk_of(tile.K);
    Nearest nearest[PART_ROWS];
    for (int i = 0; i < n_rows; ++i) nearest[i] = {__builtin_inff(), NOT_COMPUTED, NOBODY};
    for (int64_t first = 0; first < padded; first += COLUMNS) {
        const int64_t n_columns = smaller(padded - first, COLUMNS);
        float norms[PART_ROWS] = {};
        for (int64_t d = 0; d < D; d += chunk) {
            const int depth = static_cast<int>(smaller(D - d, chunk));
            for (int i = 0; i < n_rows; i += BLOCK) {
                const int m = static_cast<int>(smaller(n_rows - i, BLOCK));
                score_block(tile, x + i * D, m, d, depth, first, n_columns, rows, scores + i * stride, norms + i);
            }
        }
        for (int i = 0; i < n_rows; ++i) {
            const float margin = 4 * BETA * __builtin_sqrtf(norms[i]) * __builtin_sqrtf(largest);
            take_up(tile, x + i * D, scores + i * stride, first, n_columns, margin, nearest[i]);
        }
    }
    write_nearest(tile, x, n_rows, nearest, labels, distance);
}

template <class T>
void assign_typed_tile(const AssignTile& tile) {
    // In static memory: GCC does not know that the instruction reads all of it.
    static constexpr TileConfig config;
    _tile_loadconfig(&config);
    const float largest = largest_norm(tile);
    // Rows that are converted once are taken few at a time, and are still in the cache when their distances are
    // computed.
    const int step = tile.D <= chunk_of(tile.K) && tile.K <= COLUMNS ? BLOCK : PART_ROWS;
    for (int64_t i = 0; i < tile.n_rows; i += step) {
        const int n_rows = static_cast<int>(smaller(tile.n_rows - i, step));
        const T* x = static_cast<const T*>(tile.x) + i * tile.D;
        assign_part(tile, x, n_rows, largest, tile.labels + i, tile.distance ? tile.distance + i : nullptr);
    }
    _tile_release();
}

}  // namespace

AssignGeometry assign_geometry() { return {SIDE, BLOCK, STEP}; }

int64_t assign_scratch(int64_t K) { return BLOCK * CHUNK + PART_ROWS * columns_at_a_time(K); }

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

// As elsewhere, but in tiles: for every STEP features the high parts of the panel's centroids, then the low parts. A
// row of a tile holds two features of SIDE centroids, in pairs.
void pack_panel(
    const float* const* centroids, int n, int width, int64_t D, const float* centre, float* packed, float* norms) {
    const int n_tiles = width / SIDE;
    for (int t = 0; t < n_tiles; ++t) {
        vf norm[SIDE] = {};
        for (int64_t d = 0; d < D; d += STEP) {
            vf high[SIDE], low[SIDE];
            for (int j = 0; j < SIDE; ++j) {
                const int k = t * SIDE + j;
                vf first = {}, second = {};
                if (k < n && centroids[k]) {
                    const float* c = centroids[k];
                    first = -2.0f * (load_at(c, d, D) - load_at(centre, d, D));
                    if (d + W < D) second = -2.0f * (load_at(c, d + W, D) - load_at(centre, d + W, D));
                    norm[j] += first * first + second * second;
                }
                const Split parts = split(first, second);
                high[j] = (vf)parts.high;
                low[j] = (vf)parts.low;
            }
            transpose(high);
            transpose(low);
            float* tile = packed + d * width + t * TILE;
            for (int i = 0; i < SIDE; ++i) store_as(tile + i * SIDE, high[i]);
            for (int i = 0; i < SIDE; ++i) store_as(tile + n_tiles * TILE + i * SIDE, low[i]);
        }
        for (int j = 0; j < SIDE; ++j) {
            const int k = t * SIDE + j;
            norms[k] = k < n && centroids[k] ? 0.25f * sum_lanes(norm[j]) : __builtin_inff();
        }
    }
}

}  // namespace DREAM_ISA
}  // namespace dream_accel
