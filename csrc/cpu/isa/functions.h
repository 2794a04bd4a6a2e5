// Declarations of the functions that table.cpp collects; see kernels.h for what they do.
#pragma once

#include "kernels.h"

#ifndef DREAM_ISA
#define DREAM_ISA baseline
#endif

namespace dream_accel {
namespace DREAM_ISA {

AssignGeometry assign_geometry();
int64_t assign_scratch(int64_t K);
void assign_tile(const AssignTile& tile);
void pack_panel(
    const float* const* centroids, int n, int width, int64_t D, const float* centre, float* packed, float* norms);
bool all_finite(const float* values, int64_t n);
float row_distance(const void* x, Dtype dtype, const float* centroid, int64_t D);

void mean_of_rows(
    const void* x, Dtype dtype, int64_t D, const int32_t* rows, int64_t n, int64_t first, int64_t last, float* out);

double squared_differences(const float* x, const float* y, int64_t n, float slope_scale, float* grad);
double absolute_differences(const float* x, const float* y, int64_t n, float slope_scale, float* grad);
Products<double> products(const float* x, const float* y, int64_t n);
void cosine_gradient(const float* x, const float* y, int64_t n, double along_x, double along_y, float* grad);
void to_float(const void* source, Dtype dtype, int64_t n, float* target);
void from_float(const float* source, int64_t n, float scale, void* target, Dtype dtype);

void norm_relu_pool(const NormPlane& plane, float eps, float* pooled, float* mean, float* rstd);
void norm_relu_pool_backward(const NormPlane& plane, float mean, float rstd, const float* of_pooled, float* of_y);
void norm_relu_pool_double_backward(
    const NormPlane& plane, float mean, float rstd, const float* of_pooled, const float* of_of_y, float* of_of_pooled,
    float* of_y);

}  // namespace DREAM_ISA
}  // namespace dream_accel
