// Arithmetic of the gradient distances, written once: V is a float or a vector of floats, on the CPU and on the GPU.
//
// x is the real gradient, y the synthetic one; slopes are derivatives in y.
#pragma once

#if defined(__CUDACC__)
#define DREAM_METRIC static __host__ __device__ __forceinline__
#else
#define DREAM_METRIC static inline __attribute__((always_inline))
#endif

namespace dream_accel {

enum class Metric : int { mse = 0, l1 = 1, l1_mean = 2, cos = 3, global_mse = 4, global_cos = 5 };

// The distance is value_scale * sum of term(y - x), its derivative slope_scale * slope(y - x).
struct SquaredDifference {
    template <class V>
    DREAM_METRIC V term(V difference) {
        return difference * difference;
    }
    template <class V>
    DREAM_METRIC V slope(V difference) {
        return difference;
    }
    static constexpr float slope_scale = 2.0f;
};

struct AbsoluteDifference {
    template <class V>
    DREAM_METRIC V term(V difference) {
        return difference < 0.0f ? -difference : difference;
    }
    template <class V>
    DREAM_METRIC V slope(V difference) {
        const V zero = {};
        return difference > 0.0f ? zero + 1.0f : (difference < 0.0f ? zero - 1.0f : zero);
    }
    static constexpr float slope_scale = 1.0f;
};

// Sums over a row (or over everything, for the global cosine).
template <class V>
struct Products {
    V xy = {}, xx = {}, yy = {};
};

template <class V>
DREAM_METRIC void accumulate(Products<V>& sums, V x, V y) {
    sums.xy += x * y;
    sums.xx += x * x;
    sums.yy += y * y;
}

template <class V>
DREAM_METRIC void add(Products<V>& total, const Products<V>& sums) {
    total.xy += sums.xy;
    total.xx += sums.xx;
    total.yy += sums.yy;
}

// 1 - <x,y> / (|x||y| + eps) and its derivative in y, which is along_x * x + along_y * y.
template <class T>
struct Cosine {
    T distance, along_x, along_y;
};

template <class T>
DREAM_METRIC Cosine<T> cosine(Products<T> sums, T x_norm, T y_norm) {
    const T norms = x_norm * y_norm + T(1e-6);
    const T through_norm = y_norm == T(0) ? T(0) : sums.xy * x_norm / (y_norm * norms * norms);
    return {T(1) - sums.xy / norms, T(-1) / norms, through_norm};
}

template <class V, class T>
DREAM_METRIC V cosine_slope(V x, V y, T along_x, T along_y) {
    return along_x * x + along_y * y;
}

}  // namespace dream_accel
