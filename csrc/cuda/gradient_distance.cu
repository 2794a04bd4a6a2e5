// Launches of the gradient distance.
#include <cuda_runtime.h>

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>

#include "gradient_distance.cuh"
#include "gradient_distance.h"

namespace dream_accel {
namespace cuda {
namespace {

static_assert(sizeof(Batch) + sizeof(void*) <= 4096, "kernel arguments are limited to 4 KB on all devices");

void check(cudaError_t status) {
    if (status != cudaSuccess) {
        throw std::runtime_error(std::string("gradient_distance on CUDA: ") + cudaGetErrorString(status));
    }
}

int64_t class_size(const GradientPair& pair) { return pair.rows * pair.length; }

// Blocks one class of a tensor takes.
int64_t n_blocks(const GradientPair& pair, Metric metric) {
    if (metric != Metric::cos) return (class_size(pair) + CHUNK - 1) / CHUNK;
    return pair.length > WARP_ROW ? pair.rows : (pair.rows + WARPS - 1) / WARPS;
}

int64_t total_blocks(const std::vector<GradientPair>& pairs, Metric metric) {
    int64_t total = 0;
    for (const GradientPair& pair : pairs) total += n_blocks(pair, metric);
    return total;
}

// Calls launch(batch, grid) for every MAX_TENSORS tensors that are not empty.
template <class Launch>
void for_each_batch(const std::vector<GradientPair>& pairs, int64_t G, Metric metric, Launch launch) {
    constexpr int64_t LIMIT = std::numeric_limits<int>::max();
    Batch batch = {};
    batch.n_partials = total_blocks(pairs, metric);
    const auto flush = [&] {
        if (batch.n_blocks > 0) {
            launch(batch, static_cast<unsigned>(batch.n_blocks * G));
            check(cudaGetLastError());
        }
        batch.first_partial += batch.n_blocks;
        batch.n_tensors = batch.n_blocks = 0;
    };
    for (const GradientPair& pair : pairs) {
        const int64_t blocks = n_blocks(pair, metric);
        if (blocks == 0) continue;
        if (batch.n_tensors == MAX_TENSORS || (batch.n_blocks + blocks) * G > LIMIT) flush();
        if (blocks * G > LIMIT || pair.length > LIMIT) {
            throw std::invalid_argument(
                "a gradient of " + std::to_string(G) + " x " + std::to_string(pair.rows) + " x " +
                std::to_string(pair.length) + " elements is too large for one launch: pass fewer classes at a time");
        }
        batch.tensors[batch.n_tensors++] = {
            static_cast<const float*>(pair.real),
            static_cast<const float*>(pair.synthetic),
            static_cast<float*>(pair.grad),
            pair.rows,
            class_size(pair),
            static_cast<int>(pair.length),
            batch.n_blocks};
        batch.n_blocks += static_cast<int>(blocks);
    }
    flush();
}

}  // namespace

int64_t gradient_workspace(const std::vector<GradientPair>& pairs, int64_t G, Metric metric) {
    const int64_t blocks = total_blocks(pairs, metric);
    return metric == Metric::global_cos ? 3 * G * (blocks + 1) : G * blocks;
}

namespace {

// Sums all pairs into one column of per_layer (G, n_columns).
void distance_column(
    const std::vector<GradientPair>& pairs, int64_t G, Metric metric, float* column, int64_t n_columns,
    double* workspace, cudaStream_t queue) {
    const int64_t n_partials = total_blocks(pairs, metric);
    const unsigned classes = static_cast<unsigned>(G);

    if (metric == Metric::global_cos) {
        auto* partials = reinterpret_cast<Products<double>*>(workspace);
        auto* results = reinterpret_cast<Cosine<double>*>(workspace + 3 * G * n_partials);
        for_each_batch(pairs, G, metric, [&](const Batch& batch, unsigned grid) {
            products_kernel<<<grid, THREADS, 0, queue>>>(batch, partials);
        });
        finish_cosine_kernel<<<classes, THREADS, 0, queue>>>(partials, n_partials, column, n_columns, results);
        check(cudaGetLastError());
        if (pairs.empty() || !pairs[0].grad) return;
        for_each_batch(pairs, G, metric, [&](const Batch& batch, unsigned grid) {
            global_cosine_kernel<<<grid, THREADS, 0, queue>>>(batch, results);
        });
        return;
    }

    for_each_batch(pairs, G, metric, [&](const Batch& batch, unsigned grid) {
        switch (metric) {
            case Metric::cos:
                cosine_kernel<<<grid, THREADS, 0, queue>>>(batch, workspace);
                break;
            case Metric::l1:
                difference_kernel<AbsoluteDifference, false><<<grid, THREADS, 0, queue>>>(batch, workspace);
                break;
            case Metric::l1_mean:
                difference_kernel<AbsoluteDifference, true><<<grid, THREADS, 0, queue>>>(batch, workspace);
                break;
            default:
                difference_kernel<SquaredDifference, false><<<grid, THREADS, 0, queue>>>(batch, workspace);
        }
    });
    sum_kernel<<<classes, THREADS, 0, queue>>>(workspace, n_partials, column, n_columns);
    check(cudaGetLastError());
}

}  // namespace

void gradient_distance(
    const std::vector<GradientPair>& pairs, int64_t G, Metric metric, float* per_layer, double* workspace, int device,
    void* stream) {
    if (G == 0) return;
    check(cudaSetDevice(device));
    const auto queue = static_cast<cudaStream_t>(stream);
    if (metric == Metric::global_mse || metric == Metric::global_cos) {
        return distance_column(pairs, G, metric, per_layer, 1, workspace, queue);
    }
    const auto n_columns = static_cast<int64_t>(pairs.size());
    for (int64_t i = 0; i < n_columns; ++i) {
        distance_column({pairs[i]}, G, metric, per_layer + i, n_columns, workspace, queue);
    }
}

}  // namespace cuda
}  // namespace dream_accel
