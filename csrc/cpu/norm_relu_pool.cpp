// Instance norm, ReLU and average pooling of images, with their derivatives: plane by plane.
#include <algorithm>

#include "buffer.h"
#include "groups.h"
#include "isa/kernels.h"
#include "operators.h"
#include "parallel.h"

namespace dream_accel {
namespace {

constexpr int64_t PIXELS = 1 << 15;  // of a task, about

// Calls fn(plane, index) for every plane of y.
template <class Fn>
void for_each_plane(const FeatureMaps& maps, int n_threads, Fn&& fn) {
    const int64_t n = maps.height * maps.width, n_planes = maps.images * maps.channels;
    const int64_t at_once = std::max<int64_t>(1, PIXELS / std::max<int64_t>(1, n));
    const int64_t n_tasks = (n_planes + at_once - 1) / at_once;
    n_threads = threads_for(n * n_planes, n_threads);
    const int64_t scratch = n + n / 2 + 16;
    const Buffer<float> buffers = make_buffer<float>(scratch * n_threads);
    parallel_for(n_tasks, n_threads, [&](int64_t task, int slot) {
        for (int64_t i = task * at_once; i < std::min(n_planes, (task + 1) * at_once); ++i) {
            const int64_t c = i % maps.channels;
            fn(
                NormPlane{
                    maps.y + i * n, maps.height, maps.width, maps.weight[c], maps.bias[c],
                    buffers.get() + slot * scratch},
                i);
        }
    });
}

}  // namespace

void norm_relu_pool(const FeatureMaps& maps, float eps, float* pooled, float* mean, float* rstd, int n_threads) {
    const int64_t size = (maps.height / 2) * (maps.width / 2);
    for_each_plane(maps, n_threads, [&](const NormPlane& plane, int64_t i) {
        kernels().norm_relu_pool(plane, eps, pooled + i * size, mean + i, rstd + i);
    });
}

void norm_relu_pool_backward(
    const FeatureMaps& maps, const float* mean, const float* rstd, const float* of_pooled, float* of_y, int n_threads) {
    const int64_t size = (maps.height / 2) * (maps.width / 2), n = maps.height * maps.width;
    for_each_plane(maps, n_threads, [&](const NormPlane& plane, int64_t i) {
        kernels().norm_relu_pool_backward(plane, mean[i], rstd[i], of_pooled + i * size, of_y + i * n);
    });
}

void norm_relu_pool_double_backward(
    const FeatureMaps& maps, const float* mean, const float* rstd, const float* of_pooled, const float* of_of_y,
    float* of_of_pooled, float* of_y, int n_threads) {
    const int64_t size = (maps.height / 2) * (maps.width / 2), n = maps.height * maps.width;
    for_each_plane(maps, n_threads, [&](const NormPlane& plane, int64_t i) {
        kernels().norm_relu_pool_double_backward(
            plane, mean[i], rstd[i], of_pooled + i * size, of_of_y + i * n, of_of_pooled + i * size, of_y + i * n);
    });
}

}  // namespace dream_accel
