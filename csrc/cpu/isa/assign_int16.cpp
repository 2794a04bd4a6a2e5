// Nearest centroid with 16-bit integers, of which AVX2 multiplies and adds twice as many at a time as it does floats.
//
// Rows and centroids are rounded to 4095 steps of their own per DEPTH features: x = step q + e with |e| <= step / 2 in
// every feature. The products of the integers are exact, so by Cauchy and Schwarz the score of a row and a centroid is
// off by at most |e_x| |c| + |x| |e_c| + |e_x| |e_c|, and the nearest centroid is among those whose score is within
// twice that of the lowest. Usually that is one; the true distances, in float, decide between several.
#include <immintrin.h>

#include <type_traits>

#include "functions.h"
#include "nearest.h"
#include "simd.h"
#include "transpose.h"

namespace dream_accel {
namespace DREAM_ISA {
namespace {

constexpr int ROWS = 6;            // multiplied at a time
constexpr int PART_ROWS = 96;      // they and a panel stay in the first-level cache
constexpr int DEPTH = 128;         // features with one step
constexpr int LEVELS = 4095;       // LEVELS^2 DEPTH < 2^31: the sum of a block cannot overflow
constexpr int PAIRS = DEPTH / 2;   // two integers are one word, and are multiplied and added together
constexpr int STEP = 2 * W;        // features a block is padded to a multiple of
constexpr int PANEL = 2 * W;       // centroids multiplied at a time
constexpr int64_t COLUMNS = 512;   // centroids whose scores are kept at a time
constexpr float SLACK = 0x1p-18f;  // for the rounding of the float sums

// A panel: the errors |e_c| of its centroids, then for every DEPTH features their steps and, for every pair of
// features, a word of each.
constexpr int64_t BLOCK_WORDS = (1 + PAIRS) * PANEL;

DREAM_INLINE int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

DREAM_INLINE int64_t smaller(int64_t a, int64_t b) { return b < a ? b : a; }

int64_t columns_at_a_time(int64_t K) { return smaller(round_up(K, PANEL), COLUMNS); }

DREAM_INLINE vf absolute(vf v) { return (vf)((vu)v & 0x7fffffffu); }

DREAM_INLINE __m256i round_to_int(vf v) { return _mm256_cvtps_epi32((__m256)v); }

struct Rounded {
    float step;
    float squares;  // of the values
    int depth;      // features rounded

    float error() const { return 0.25f * static_cast<float>(depth) * step * step; }  // at most, squared
};

// Writes depth features of x - centre as integers, padded with zeros to a multiple of STEP.
template <class T>
DREAM_INLINE Rounded round_row(const T* x, const float* centre, int depth, int32_t* pairs) {
    vf values[DEPTH / W];
    vf most = {}, squares = {};
    const int n_vectors = (depth + STEP - 1) / STEP * 2;
    for (int i = 0; i < n_vectors; ++i) {
        const int d = i * W;
        values[i] = d < depth ? load_at(x, d, depth) - load_at(centre, d, depth) : vf{};
        squares += values[i] * values[i];
        const vf size = absolute(values[i]);
        most = size > most ? size : most;
    }
    const float largest = reduce_lanes(most, [](vf a, vf b) { return b > a ? b : a; })[0];
    // Below the limit everything is zero, as the squares of such values are in float.
    const vf scale = broadcast(largest > 1e-30f ? LEVELS / largest : 0.0f);
    for (int i = 0; i < n_vectors; i += 2) {
        const __m256i halves = _mm256_packs_epi32(round_to_int(values[i] * scale), round_to_int(values[i + 1] * scale));
        store_as(pairs + i * (W / 2), _mm256_permute4x64_epi64(halves, 0xd8));
    }
    return {largest / LEVELS, sum_lanes(squares), depth};
}

// The lines of the next rows that one product brings towards the cache.
struct Prefetch {
    const char* row;
    int64_t stride;
    int n_rows, n_lines;

    DREAM_INLINE void issue() const {
        for (int i = 0; i < n_rows; ++i) {
            for (int line = 0; line < n_lines; ++line) __builtin_prefetch(row + i * stride + line * 64, 0, 2);
        }
    }
};

// scores (ROWS, PANEL) = or += rows (ROWS, n_pairs) * panel (n_pairs, PANEL), times the steps of both
void multiply(
    const int32_t* rows, const float* row_steps, const float* panel, int64_t n_pairs, float* scores, int64_t stride,
    bool add) {
    const float* steps = panel;
    panel += PANEL;
    // In assembly: its twelve sums and four temporaries are all the registers, and compilers spill some of the sums.
#define DREAM_ADD_PRODUCTS(row, sum0, sum1)   \
    "vpbroadcastd " #row                      \
    "(%[rows]), %[word]\n\t"                  \
    "vpmaddwd %[c0], %[word], %[product]\n\t" \
    "vpmaddwd %[c1], %[word], %[word]\n\t"    \
    "vpaddd %[product], %" #sum0 ", %" #sum0  \
    "\n\t"                                    \
    "vpaddd %[word], %" #sum1 ", %" #sum1 "\n\t"
#define DREAM_ZERO(sum) "vpxor %" #sum ", %" #sum ", %" #sum "\n\t"
    __m256i sum[ROWS][2], c0, c1, word, product;
    static_assert(ROWS == 6 && PANEL == 16 && PAIRS * sizeof(int32_t) == 256, "the numbers below");
    asm(DREAM_ZERO(0) DREAM_ZERO(1) DREAM_ZERO(2) DREAM_ZERO(3) DREAM_ZERO(4) DREAM_ZERO(5)
        DREAM_ZERO(6) DREAM_ZERO(7) DREAM_ZERO(8) DREAM_ZERO(9) DREAM_ZERO(10) DREAM_ZERO(11)
        ".p2align 5\n"
        "1:\n\t"
        "vmovdqu (%[panel]), %[c0]\n\t"
        "vmovdqu 32(%[panel]), %[c1]\n\t"
        DREAM_ADD_PRODUCTS(0, 0, 1)
        DREAM_ADD_PRODUCTS(256, 2, 3)
        DREAM_ADD_PRODUCTS(512, 4, 5)
        DREAM_ADD_PRODUCTS(768, 6, 7)
        DREAM_ADD_PRODUCTS(1024, 8, 9)
        DREAM_ADD_PRODUCTS(1280, 10, 11)
        "add $4, %[rows]\n\t"
        "add $64, %[panel]\n\t"
        "dec %[n]\n\t"
        "jnz 1b"
        : "=&x"(sum[0][0]), "=&x"(sum[0][1]), "=&x"(sum[1][0]), "=&x"(sum[1][1]), "=&x"(sum[2][0]), "=&x"(sum[2][1]),
          "=&x"(sum[3][0]), "=&x"(sum[3][1]), "=&x"(sum[4][0]), "=&x"(sum[4][1]), "=&x"(sum[5][0]), "=&x"(sum[5][1]),
          [c0] "=&x"(c0), [c1] "=&x"(c1), [word] "=&x"(word), [product] "=&x"(product), [rows] "+r"(rows),
          [panel] "+r"(panel), [n] "+r"(n_pairs)
        :
        : "memory", "cc");
#undef DREAM_ADD_PRODUCTS
#undef DREAM_ZERO
#pragma GCC unroll 8
    for (int m = 0; m < ROWS; ++m) {
        const vf row_step = broadcast(row_steps[m]);
#pragma GCC unroll 2
        for (int v = 0; v < 2; ++v) {
            float* score = scores + m * stride + v * W;
            const vf product = (vf)_mm256_cvtepi32_ps(sum[m][v]) * (row_step * load(steps + v * W));
            store_as(score, add ? load(score) + product : product);
        }
    }
}

// Some rows of the tile in hand.
template <class T>
struct Part {
    const T* x;
    int n_rows;
    int n_next;  // rows that come after it
};

// What is known of the rows of a part.
struct Sizes {
    float squares[PART_ROWS];
    float errors[PART_ROWS];  // squared
};

// Writes the products of the rows with centroids [first, first + n_columns) into scores.
template <class T>
void score_columns(
    const AssignTile& tile, const Part<T>& part, int64_t first, int64_t n_columns, int32_t* rows, float* scores,
    Sizes& sizes) {
    constexpr int LINES = DEPTH * sizeof(T) / 64;
    const int64_t D = tile.D, padded_D = round_up(D, DEPTH), stride = columns_at_a_time(tile.K);
    const int n_panels = static_cast<int>(n_columns / PANEL);
    const int share = (LINES + n_panels - 1) / n_panels;
    float steps[PART_ROWS] = {};
    for (int i = 0; i < part.n_rows; ++i) sizes.squares[i] = sizes.errors[i] = 0.0f;
    for (int64_t d = 0; d < D; d += DEPTH) {
        const int depth = static_cast<int>(smaller(D - d, DEPTH));
        const int n_pairs = static_cast<int>(round_up(depth, STEP)) / 2;
        for (int i = 0; i < part.n_rows; ++i) {
            const Rounded rounded = round_row(part.x + i * D + d, tile.centre + d, depth, rows + i * PAIRS);
            steps[i] = rounded.step;
            sizes.squares[i] += rounded.squares;
            sizes.errors[i] += rounded.error();
        }
        const bool last = d + DEPTH >= D;
        const T* soon = last ? part.x + part.n_rows * D : part.x + d + DEPTH;
        const int n_soon = last ? part.n_next : part.n_rows;
        for (int64_t k = 0; k < n_columns; k += PANEL) {
            const float* panel = tile.packed + (first + k) * padded_D + PANEL + d / DEPTH * BLOCK_WORDS;
            // The panels share the fetching of the columns that come next.
            const int from = static_cast<int>(k / PANEL) * share;
            const int n_lines = static_cast<int>(smaller(share, LINES - from));
            for (int i = 0; i < part.n_rows; i += ROWS) {
                const int m = static_cast<int>(smaller(part.n_rows - i, ROWS));
                const char* line = reinterpret_cast<const char*>(soon + i * D) + from * 64;
                Prefetch{line, D * static_cast<int64_t>(sizeof(T)), static_cast<int>(smaller(n_soon - i, m)), n_lines}
                    .issue();
                multiply(rows + i * PAIRS, steps + i, panel, n_pairs, scores + i * stride + k, stride, d > 0);
            }
        }
    }
}

// The largest |2 c| and error of the live centroids.
struct Largest {
    float norm, error;
};

Largest largest_of(const AssignTile& tile) {
    const int64_t padded_D = round_up(tile.D, DEPTH);
    Largest largest = {};
    for (int64_t k = 0; k < tile.K; ++k) {
        const float norm = tile.norms[k], error = tile.packed[k / PANEL * PANEL * padded_D + k % PANEL];
        if (!(norm < __builtin_inff())) continue;
        if (norm > largest.norm) largest.norm = norm;
        if (error > largest.error) largest.error = error;
    }
    return {2.0f * __builtin_sqrtf(largest.norm), largest.error};
}

template <class T>
void assign_part(const AssignTile& tile, const Part<T>& part, Largest largest, int32_t* labels, float* distance) {
    int32_t* rows = reinterpret_cast<int32_t*>(tile.scratch);
    float* scores = tile.scratch + PART_ROWS * PAIRS;
    const int64_t D = tile.D, padded = round_up(tile.K, PANEL), stride = columns_at_a_time(tile.K);
    Nearest nearest[PART_ROWS];
    Sizes sizes;
    for (int i = 0; i < part.n_rows; ++i) nearest[i] = {__builtin_inff(), NOT_COMPUTED, NOBODY};
    for (int64_t first = 0; first < padded; first += COLUMNS) {
        const int64_t n_columns = smaller(padded - first, COLUMNS);
        score_columns(tile, part, first, n_columns, rows, scores, sizes);
        for (int i = 0; i < part.n_rows; ++i) {
            const float norm = __builtin_sqrtf(sizes.squares[i]), error = __builtin_sqrtf(sizes.errors[i]);
            const float off = error * (largest.norm + largest.error) + norm * (largest.error + SLACK * largest.norm);
            take_up(tile, part.x + i * D, scores + i * stride, first, n_columns, 2.0f * off, nearest[i]);
        }
    }
    write_nearest(tile, part.x, part.n_rows, nearest, labels, distance);
}

template <class T>
void assign_typed_tile(const AssignTile& tile) {
    const T* x = static_cast<const T*>(tile.x);
    const Largest largest = largest_of(tile);
    for (int64_t i = 0; i < tile.n_rows; i += PART_ROWS) {
        const int64_t left = tile.n_rows - i, n_rows = smaller(left, PART_ROWS);
        const Part<T> part = {
            x + i * tile.D, static_cast<int>(n_rows), static_cast<int>(smaller(left - n_rows, PART_ROWS))};
        assign_part(tile, part, largest, tile.labels + i, tile.distance ? tile.distance + i : nullptr);
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
    const float* centroids, const uint8_t* live, int n, int width, int64_t D, const float* centre, float* packed,
    float* norms) {
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
                if (k >= n || !live[k]) continue;
                const Rounded rounded = round_row(centroids + k * D + d, centre + d, depth, pairs[j]);
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
            norms[k] = k < n && live[k] ? squares[j] : __builtin_inff();
        }
    }
}

}  // namespace DREAM_ISA
}  // namespace dream_accel
