// Mean of chosen rows.
#include "functions.h"
#include "simd.h"

namespace dream_accel {
namespace DREAM_ISA {
namespace {

constexpr int H = W / 2;       // doubles in a vector
constexpr int COLUMNS = 2048;  // their sums fit the first-level cache

struct Doubles {
    vd low, high;
};

template <size_t... LANE>
DREAM_INLINE Doubles widen(vf v, std::index_sequence<LANE...>) {
    return {
        __builtin_convertvector(__builtin_shufflevector(v, v, LANE...), vd),
        __builtin_convertvector(__builtin_shufflevector(v, v, (LANE + H)...), vd),
    };
}

template <class T>
DREAM_INLINE Doubles load_doubles(const T* source) {
    return widen(load(source), std::make_index_sequence<H>());
}

DREAM_INLINE Doubles load_doubles(const float* source) {
    return {
        __builtin_convertvector(load_as<vf_half>(source), vd),
        __builtin_convertvector(load_as<vf_half>(source + H), vd),
    };
}

// sums += the M rows, one after another, columns [0, width). The next rows are fetched ahead: members of a cluster lie
// apart, and left to itself the processor starts on a row only when it is needed.
template <int M, class T>
void add_rows(const T* const* rows, const T* const* next, int width, double* sums) {
    int d = 0;
    for (; d + W <= width; d += W) {
        if (d * sizeof(T) % 64 == 0) {
            for (int m = 0; m < M; ++m) __builtin_prefetch(next[m] + d, 0, 2);
        }
        vd low = load_as<vd>(sums + d), high = load_as<vd>(sums + d + H);
#pragma GCC unroll 4
        for (int m = 0; m < M; ++m) {
            const Doubles row = load_doubles(rows[m] + d);
            low += row.low;
            high += row.high;
        }
        store_as(sums + d, low);
        store_as(sums + d + H, high);
    }
    if (d == width) return;
    for (int m = 0; m < M; ++m) {
        const vf tail = load_at(rows[m], d, width);
        for (int i = 0; d + i < width; ++i) sums[d + i] += tail[i];
    }
}

template <class T>
void mean_of_typed_rows(
    const T* x, int64_t D, const int32_t* rows, int64_t n, int64_t first, int64_t last, float* out) {
    alignas(VECTOR_BYTES) double sums[COLUMNS];
    for (int64_t begin = first; begin < last; begin += COLUMNS) {
        const int width = static_cast<int>(last - begin < COLUMNS ? last - begin : COLUMNS);
        for (int d = 0; d < width; ++d) sums[d] = 0.0;
        const auto row = [&](int64_t i) { return x + rows[i < n ? i : n - 1] * D + begin; };
        int64_t i = 0;
        for (; i + 4 <= n; i += 4) {
            const T* four[] = {row(i), row(i + 1), row(i + 2), row(i + 3)};
            const T* next[] = {row(i + 4), row(i + 5), row(i + 6), row(i + 7)};
            add_rows<4>(four, next, width, sums);
        }
        for (; i < n; ++i) {
            const T *one = row(i), *next = row(i + 1);
            add_rows<1>(&one, &next, width, sums);
        }
        for (int d = 0; d < width; ++d) out[begin + d] = static_cast<float>(sums[d] / static_cast<double>(n));
    }
}

}  // namespace

void mean_of_rows(
    const void* x, Dtype dtype, int64_t D, const int32_t* rows, int64_t n, int64_t first, int64_t last, float* out) {
    with_type(
        dtype, [&](auto* type) { mean_of_typed_rows(static_cast<decltype(type)>(x), D, rows, n, first, last, out); });
}

}  // namespace DREAM_ISA
}  // namespace dream_accel
