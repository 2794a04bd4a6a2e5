// Terms of the gradient distances and their derivatives over contiguous runs.
#include "functions.h"
#include "simd.h"

namespace dream_accel {
namespace DREAM_ISA {
namespace {

constexpr int64_t RUN = 4096;  // elements summed in float before they enter the double sum
constexpr int64_t SHORT_ROW = 8;

DREAM_INLINE void store_at(float* target, int64_t i, int64_t n, vf value) {
    if (i + W <= n) {
        store_as(target + i, value);
    } else {
        for (int64_t j = 0; i + j < n; ++j) target[i + j] = value[j];
    }
}

template <class Difference, bool WITH_GRAD>
double differences(const float* x, const float* y, int64_t n, float slope_scale, float* grad) {
    double total = 0.0;
    for (int64_t begin = 0; begin < n; begin += RUN) {
        const int64_t end = n - begin < RUN ? n : begin + RUN;
        vf sum[4] = {};
        int64_t i = begin;
        for (; i + 4 * W <= end; i += 4 * W) {
#pragma GCC unroll 4
            for (int j = 0; j < 4; ++j) {
                const vf difference = load(y + i + j * W) - load(x + i + j * W);
                sum[j] += Difference::term(difference);
                if (WITH_GRAD) store_as(grad + i + j * W, slope_scale * Difference::slope(difference));
            }
        }
        for (; i < end; i += W) {
            const vf difference = load_at(y, i, end) - load_at(x, i, end);
            sum[0] += Difference::term(difference);
            if (WITH_GRAD) store_at(grad, i, end, slope_scale * Difference::slope(difference));
        }
        total += static_cast<double>(sum_lanes((sum[0] + sum[1]) + (sum[2] + sum[3])));
    }
    return total;
}

template <class Difference>
double differences(const float* x, const float* y, int64_t n, float slope_scale, float* grad) {
    return grad ? differences<Difference, true>(x, y, n, slope_scale, grad)
                : differences<Difference, false>(x, y, n, slope_scale, grad);
}

}  // namespace

double squared_differences(const float* x, const float* y, int64_t n, float slope_scale, float* grad) {
    return differences<SquaredDifference>(x, y, n, slope_scale, grad);
}

double absolute_differences(const float* x, const float* y, int64_t n, float slope_scale, float* grad) {
    return differences<AbsoluteDifference>(x, y, n, slope_scale, grad);
}

// Rows of a few elements are taken in double: those of a 1-d parameter have one, so x and y are parallel, and the two
// parts of the derivative cancel to the last digits.
Products<double> products(const float* x, const float* y, int64_t n) {
    Products<double> total;
    if (n <= SHORT_ROW) {
        for (int64_t i = 0; i < n; ++i) accumulate(total, static_cast<double>(x[i]), static_cast<double>(y[i]));
        return total;
    }
    for (int64_t begin = 0; begin < n; begin += RUN) {
        const int64_t end = n - begin < RUN ? n : begin + RUN;
        Products<vf> sums[2];
        int64_t i = begin;
        for (; i + 2 * W <= end; i += 2 * W) {
            accumulate(sums[0], load(x + i), load(y + i));
            accumulate(sums[1], load(x + i + W), load(y + i + W));
        }
        for (; i < end; i += W) accumulate(sums[0], load_at(x, i, end), load_at(y, i, end));
        total.xy += static_cast<double>(sum_lanes(sums[0].xy + sums[1].xy));
        total.xx += static_cast<double>(sum_lanes(sums[0].xx + sums[1].xx));
        total.yy += static_cast<double>(sum_lanes(sums[0].yy + sums[1].yy));
    }
    return total;
}

void cosine_gradient(const float* x, const float* y, int64_t n, double along_x, double along_y, float* grad) {
    if (n <= SHORT_ROW) {
        for (int64_t i = 0; i < n; ++i) {
            const double slope = cosine_slope(static_cast<double>(x[i]), static_cast<double>(y[i]), along_x, along_y);
            grad[i] = static_cast<float>(slope);
        }
        return;
    }
    const float on_x = static_cast<float>(along_x), on_y = static_cast<float>(along_y);
    for (int64_t i = 0; i < n; i += W) {
        store_at(grad, i, n, cosine_slope(load_at(x, i, n), load_at(y, i, n), on_x, on_y));
    }
}

}  // namespace DREAM_ISA
}  // namespace dream_accel
