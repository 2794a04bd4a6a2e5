// Blocked product of a few rows with a panel of centroids, both relative to the centre of their group.
#pragma once

#include "functions.h"
#include "simd.h"

namespace dream_accel {
namespace DREAM_ISA {
namespace {

// Two vectors of scores for each of ROWS rows are as many accumulators as the registers hold.
#if defined(__AVX512F__)
constexpr int ROWS = 14;
constexpr int BLOCKS = 8;
#elif defined(__aarch64__)
constexpr int ROWS = 12;
constexpr int BLOCKS = 8;
#else
constexpr int ROWS = 6;
constexpr int BLOCKS = 16;
#endif
constexpr int PART_ROWS = ROWS * BLOCKS;
constexpr int PANEL = 2 * W;
constexpr int DEPTH = 256;
constexpr int STRIDE = DEPTH + 16;  // not a power of two, so that rows do not compete for the same cache lines
constexpr int SEGMENT = 16;

template <class T>
void centre_rows(const T* x, int64_t stride, int n_rows, int depth, const float* centre, float* rows) {
    for (int i = 0; i < n_rows; ++i) {
        for (int d = 0; d < depth; d += W) {
            const vf value = load_at(x + i * stride, d, depth) - load_at(centre, d, depth);
            store_as(rows + i * STRIDE + d, value);
        }
    }
}

// Rows of x that are needed soon. Every SEGMENT steps of a product bring one more line of each towards the cache.
struct Prefetch {
    const char* row;
    int64_t stride;
    int n_rows;
};

// scores (M, V vectors) = or += rows (M, depth) * panel (depth, V vectors)
template <int M, int V>
void multiply(
    const float* rows, const float* panel, int depth, float* scores, int64_t scores_stride, bool add, Prefetch soon) {
    vf sum[M][V] = {};
    for (int segment = 0; segment < depth; segment += SEGMENT) {
        for (int i = 0; i < soon.n_rows; ++i) __builtin_prefetch(soon.row + i * soon.stride, 0, 2);
        soon.row += 64;
        const int end = depth - segment < SEGMENT ? depth : segment + SEGMENT;
        for (int d = segment; d < end; ++d) {
            vf c[V];
#pragma GCC unroll 2
            for (int v = 0; v < V; ++v) c[v] = load(panel + (d * V + v) * W);
#pragma GCC unroll 16
            for (int m = 0; m < M; ++m) {
                const vf x = broadcast(rows[m * STRIDE + d]);
#pragma GCC unroll 2
                for (int v = 0; v < V; ++v) sum[m][v] += x * c[v];
            }
        }
    }
    // Every block of columns starts from zero and is added afterwards: shorter chains of sums lose less.
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) {
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) {
            float* score = scores + m * scores_stride + v * W;
            store_as(score, add ? load(score) + sum[m][v] : sum[m][v]);
        }
    }
}

template <int V, int M = ROWS>
void multiply_up_to(
    int m, const float* rows, const float* panel, int depth, float* scores, int64_t stride, bool add, Prefetch soon) {
    if constexpr (M > 1) {
        if (m < M) return multiply_up_to<V, M - 1>(m, rows, panel, depth, scores, stride, add, soon);
    }
    multiply<M, V>(rows, panel, depth, scores, stride, add, soon);
}

}  // namespace
}  // namespace DREAM_ISA
}  // namespace dream_accel
