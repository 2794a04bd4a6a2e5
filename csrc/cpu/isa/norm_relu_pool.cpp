// Instance norm, ReLU and 2x2 average pooling of one plane, with their derivatives.
//
// Symbols: n pixels; x = (y - mean) rstd; g the derivative by the result; e = weight [weight x + bias > 0] unpooled(g),
// the derivative by x; <.> the mean over the plane; J u = rstd (u - <u> - x <u x>), u times the derivative of x by y,
// which is symmetric.
#include "functions.h"

namespace dream_accel {
namespace DREAM_ISA {
namespace {

// pooled (height / 2, width / 2) = means of 2x2 pixels; sums is scratch for half a plane.
void pool(
    const float* __restrict plane, int64_t height, int64_t width, float* __restrict sums, float* __restrict pooled) {
    const int64_t rows = height / 2, columns = width / 2;
    for (int64_t i = 0; i < rows; ++i) {
        const float *upper = plane + 2 * i * width, *lower = upper + width;
#pragma omp simd
        for (int64_t j = 0; j < 2 * columns; ++j) sums[2 * i * columns + j] = upper[j] + lower[j];
    }
    const int64_t n = rows * columns;
#pragma omp simd
    for (int64_t k = 0; k < n; ++k) pooled[k] = 0.25f * (sums[2 * k] + sums[2 * k + 1]);
}

// The transpose of pool, times factor.
void unpool(
    const float* __restrict pooled, int64_t height, int64_t width, float factor, float* __restrict sums,
    float* __restrict plane) {
    const int64_t rows = height / 2, columns = width / 2, n = rows * columns;
    const float quarter = 0.25f * factor;
#pragma omp simd
    for (int64_t k = 0; k < n; ++k) sums[2 * k] = sums[2 * k + 1] = quarter * pooled[k];
    for (int64_t i = 0; i < height; ++i) {
        float* row = plane + i * width;
        const float* source = sums + (i / 2) * 2 * columns;
        const int64_t covered = i < 2 * rows ? 2 * columns : 0;
#pragma omp simd
        for (int64_t j = 0; j < covered; ++j) row[j] = source[j];
        for (int64_t j = covered; j < width; ++j) row[j] = 0.0f;
    }
}

}  // namespace

void norm_relu_pool(const NormPlane& plane, float eps, float* pooled, float* mean, float* rstd) {
    const float* __restrict y = plane.y;
    float* __restrict result = plane.scratch;
    const int64_t n = plane.height * plane.width;
    const float share = 1.0f / static_cast<float>(n);
    float sum = 0.0f, squares = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; ++i) sum += y[i];
    const float centre = sum * share;
#pragma omp simd reduction(+ : squares)
    for (int64_t i = 0; i < n; ++i) squares += (y[i] - centre) * (y[i] - centre);
    const float scale = 1.0f / __builtin_sqrtf(squares * share + eps);
    const float weight = plane.weight, bias = plane.bias;
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
        const float normed = weight * ((y[i] - centre) * scale) + bias;
        result[i] = normed > 0.0f ? normed : 0.0f;
    }
    pool(result, plane.height, plane.width, plane.scratch + n, pooled);
    *mean = centre;
    *rstd = scale;
}

void norm_relu_pool_backward(const NormPlane& plane, float mean, float rstd, const float* of_pooled, float* of_y) {
    const float* __restrict y = plane.y;
    float* __restrict e = plane.scratch;
    float* __restrict result = of_y;
    const int64_t n = plane.height * plane.width;
    const float weight = plane.weight, bias = plane.bias;
    unpool(of_pooled, plane.height, plane.width, weight, plane.scratch + n, e);
    float sum_e = 0.0f, sum_ex = 0.0f;
#pragma omp simd reduction(+ : sum_e, sum_ex)
    for (int64_t i = 0; i < n; ++i) {
        const float x = (y[i] - mean) * rstd;
        e[i] = weight * x + bias > 0.0f ? e[i] : 0.0f;
        sum_e += e[i];
        sum_ex += e[i] * x;
    }
    const float share = 1.0f / static_cast<float>(n), mean_e = share * sum_e, mean_ex = share * sum_ex;
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) result[i] = rstd * (e[i] - mean_e - (y[i] - mean) * rstd * mean_ex);
}

// With t = of_of_y, the derivatives of n <e J t> by g and by y:
//   pool(weight [weight x + bias > 0] J t) and
//   -rstd^2 (<e t> - <e><t> - <e x><t x>) x - rstd (<t x> J e + <e x> J t).
void norm_relu_pool_double_backward(
    const NormPlane& plane, float mean, float rstd, const float* of_pooled, const float* of_of_y, float* of_of_pooled,
    float* of_y) {
    const float* __restrict y = plane.y;
    const float* __restrict t = of_of_y;
    float* __restrict e = plane.scratch;
    float* __restrict result = of_y;
    const int64_t n = plane.height * plane.width;
    const float weight = plane.weight, bias = plane.bias;
    unpool(of_pooled, plane.height, plane.width, weight, plane.scratch + n, e);
    float sum_e = 0.0f, sum_ex = 0.0f, sum_t = 0.0f, sum_tx = 0.0f, sum_et = 0.0f;
#pragma omp simd reduction(+ : sum_e, sum_ex, sum_t, sum_tx, sum_et)
    for (int64_t i = 0; i < n; ++i) {
        const float x = (y[i] - mean) * rstd;
        e[i] = weight * x + bias > 0.0f ? e[i] : 0.0f;
        sum_e += e[i];
        sum_ex += e[i] * x;
        sum_t += t[i];
        sum_tx += t[i] * x;
        sum_et += e[i] * t[i];
    }
    const float share = 1.0f / static_cast<float>(n);
    const float mean_e = share * sum_e, mean_ex = share * sum_ex, mean_t = share * sum_t, mean_tx = share * sum_tx;
    const float along_x = rstd * rstd * (share * sum_et - mean_e * mean_t - mean_ex * mean_tx);
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
        const float x = (y[i] - mean) * rstd;
        const float of_e = rstd * (e[i] - mean_e - x * mean_ex), of_t = rstd * (t[i] - mean_t - x * mean_tx);
        result[i] = -along_x * x - rstd * (mean_tx * of_e + mean_ex * of_t);
        e[i] = weight * x + bias > 0.0f ? weight * of_t : 0.0f;
    }
    pool(e, plane.height, plane.width, plane.scratch + n, of_of_pooled);
}

}  // namespace DREAM_ISA
}  // namespace dream_accel
