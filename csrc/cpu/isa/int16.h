// Products of rows and centroids with 16-bit integers, of which AVX2 multiplies and adds twice as many at a time as it
// does floats.
//
// Rows and centroids are rounded to 4095 steps of their own per DEPTH features: x = step q + e with |e| <= step / 2 in
// every feature. The products of the integers are exact, so by Cauchy and Schwarz the score of a row and a centroid is
// off by at most |e_x| |c| + |x| |e_c| + |e_x| |e_c|, and the nearest centroid is among those whose score is within
// twice that of the lowest. Usually that is one; the true distances, in float, decide between several.
#pragma once

#include <immintrin.h>

#include "functions.h"
#include "nearest.h"
#include "simd.h"

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

// Brings lines of n rows towards the cache, which begin so many bytes from each.
template <class T>
DREAM_INLINE void prefetch(const T* const* rows, int n, int64_t bytes, int line, int n_lines) {
    for (int i = 0; i < n; ++i) {
        const char* first = reinterpret_cast<const char*>(rows[i]) + bytes + line * 64;
        for (int l = 0; l < n_lines; ++l) __builtin_prefetch(first + l * 64, 0, 2);
    }
}

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

// What is known of the rows of a part.
struct Sizes {
    float squares[PART_ROWS];
    float errors[PART_ROWS];  // squared
};

// A part: n_rows rows of the tile in hand, given by pointers, after which come those of the n_next rows to be fetched.
// These are as they were given.
template <class T>
struct FloatRows {
    const T* const* row;
    int n_rows, n_next;
    const float* centre;
    Sizes& sizes;

    static constexpr int LINES = DEPTH * sizeof(T) / 64;  // that a block of DEPTH features takes

    static int64_t bytes_before(int64_t d) { return d * static_cast<int64_t>(sizeof(T)); }

    // Writes the integers of features d to d + depth - 1 of row i and returns their step.
    DREAM_INLINE float take(int i, int64_t d, int depth, int32_t* pairs) const {
        const Rounded rounded = round_row(row[i] + d, centre + d, depth, pairs);
        sizes.squares[i] = (d > 0 ? sizes.squares[i] : 0.0f) + rounded.squares;
        sizes.errors[i] = (d > 0 ? sizes.errors[i] : 0.0f) + rounded.error();
        return rounded.step;
    }
};

// Writes the products of the rows of a part with columns [first, first + n_columns) into scores.
template <class Rows>
void score_columns(
    const AssignTile& tile, const Rows& part, int64_t first, int64_t n_columns, int32_t* rows, float* scores) {
    const int64_t D = tile.D, padded_D = round_up(D, DEPTH), stride = columns_at_a_time(tile.K);
    const int n_panels = static_cast<int>(n_columns / PANEL);
    const int share = (Rows::LINES + n_panels - 1) / n_panels;
    float steps[PART_ROWS] = {};
    for (int64_t d = 0; d < D; d += DEPTH) {
        const int depth = static_cast<int>(smaller(D - d, DEPTH));
        const int n_pairs = static_cast<int>(round_up(depth, STEP)) / 2;
        for (int i = 0; i < part.n_rows; ++i) steps[i] = part.take(i, d, depth, rows + i * PAIRS);
        const bool last = d + DEPTH >= D;
        const auto* soon = last ? part.row + part.n_rows : part.row;
        const int n_soon = last ? part.n_next : part.n_rows;
        const int64_t bytes = part.bytes_before(last ? 0 : d + DEPTH);
        for (int64_t k = 0; k < n_columns; k += PANEL) {
            const float* panel = tile.packed + (first + k) * padded_D + PANEL + d / DEPTH * BLOCK_WORDS;
            // The panels share the fetching of the columns that come next.
            const int from = static_cast<int>(k / PANEL) * share;
            const int n_lines = static_cast<int>(smaller(share, Rows::LINES - from));
            for (int i = 0; i < part.n_rows; i += ROWS) {
                const int m = static_cast<int>(smaller(part.n_rows - i, ROWS));
                prefetch(soon + i, static_cast<int>(smaller(n_soon - i, m)), bytes, from, n_lines);
                multiply(rows + i * PAIRS, steps + i, panel, n_pairs, scores + i * stride + k, stride, d > 0);
            }
        }
    }
}

// The largest |2 c| and error of the live centroids.
struct Largest {
    float norm, error;
};

Largest largest_of(const AssignTile& tile, int64_t n_columns) {
    const int64_t padded_D = round_up(tile.D, DEPTH);
    Largest largest = {};
    for (int64_t k = 0; k < n_columns; ++k) {
        const float norm = tile.norms[k], error = tile.packed[k / PANEL * PANEL * padded_D + k % PANEL];
        if (!(norm < __builtin_inff())) continue;
        if (norm > largest.norm) largest.norm = norm;
        if (error > largest.error) largest.error = error;
    }
    return {2.0f * __builtin_sqrtf(largest.norm), largest.error};
}

// How far the score of a row may be off: |squared distance - (|x|^2 + score)|, but for the sums of squares.
DREAM_INLINE float score_error(float squares, float errors, Largest largest) {
    const float norm = __builtin_sqrtf(squares), error = __builtin_sqrtf(errors);
    return error * (largest.norm + largest.error) + norm * (largest.error + SLACK * largest.norm);
}

}  // namespace
}  // namespace DREAM_ISA
}  // namespace dream_accel
