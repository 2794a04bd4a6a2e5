#include "gradient_distance.h"

#include <algorithm>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>

#include "workspace.h"

namespace dream_accel {
namespace cuda {
namespace {

int as_int(int64_t value, const char* what) {
    if (value > std::numeric_limits<int>::max()) {
        throw std::invalid_argument(
            std::string("a tensor with ") + std::to_string(value) + " " + what +
            ": the CUDA kernels count to 2147483647");
    }
    return static_cast<int>(value);
}

LayerPair describe(const GradientPair& pair) {
    return {
        pair.real,
        pair.synthetic,
        pair.grad,
        pair.length,
        pair.real_stride,
        pair.synthetic_stride,
        as_int(pair.rows, "rows"),
        as_int(pair.interleave, "channels"),
        as_int(pair.real_batch, "images"),
        as_int(pair.synthetic_batch, "images"),
        0,
        static_cast<unsigned char>(pair.real_dtype),
        static_cast<unsigned char>(pair.synthetic_dtype)};
}

// Blocks one class of a layer takes; an empty layer takes one too, which adds nothing.
int64_t n_blocks(const LayerPair& layer, Metric metric) {
    const int64_t size = layer.rows * layer.length;
    if (metric == Metric::cos) {
        const int rows = DISTANCE_THREADS / threads_of_row(layer.length);
        return std::max<int64_t>(ceil_div(layer.rows, rows), 1);
    }
    return std::max<int64_t>(ceil_div(size, chunk_of(layer.real_batch, layer.synthetic_batch)), 1);
}

// Some of the layers of a call, for one launch.
template <class Layer>
struct Batch {
    std::vector<Layer> layers;
    int first_column = 0;
    int n_blocks = 0;  // of a class
};

// n_blocks(layer) is what a class of it takes.
template <class Layer, class Count>
std::vector<Batch<Layer>> cut(const std::vector<Layer>& layers, int most_layers, Count n_blocks) {
    std::vector<Batch<Layer>> batches;
    for (size_t i = 0; i < layers.size(); ++i) {
        if (i % static_cast<size_t>(most_layers) == 0) {
            batches.emplace_back();
            batches.back().first_column = static_cast<int>(i);
        }
        Batch<Layer>& batch = batches.back();
        batch.layers.push_back(layers[i]);
        batch.layers.back().first_block = batch.n_blocks;
        batch.n_blocks = as_int(batch.n_blocks + n_blocks(layers[i]), "blocks of work");
    }
    return batches;
}

std::vector<Batch<LayerPair>> cut(const std::vector<GradientPair>& pairs, Metric metric, int most_layers) {
    std::vector<LayerPair> layers;
    for (const GradientPair& pair : pairs) layers.push_back(describe(pair));
    return cut(layers, most_layers, [metric](const LayerPair& layer) { return n_blocks(layer, metric); });
}

int most_layers(const Queue& queue) { return has_large_kernels(queue.device) ? MANY : FEW; }

// Calls fill(arguments) for the smallest kind that holds n layers, and launches.
template <class Few, class Many, class Fill>
void launch_smallest(size_t n, int64_t grid, const Queue& queue, Fill fill) {
    if (n <= static_cast<size_t>(FEW)) {
        typename Few::Arguments arguments;
        fill(arguments);
        launch<Few>(queue, grid, arguments);
    } else {
        const auto arguments = std::make_unique<typename Many::Arguments>();
        fill(*arguments);
        launch<Many>(queue, grid, *arguments);
    }
}

template <class Few, class Many>
void launch_batch(const Batch<LayerPair>& batch, const DistanceSums& sums, int64_t G, const Queue& queue) {
    launch_smallest<Few, Many>(batch.layers.size(), G * batch.n_blocks, queue, [&](auto& arguments) {
        std::copy(batch.layers.begin(), batch.layers.end(), arguments.layers);
        arguments.sums = sums;
        arguments.sums.n_layers = static_cast<int>(batch.layers.size());
        arguments.sums.n_blocks = batch.n_blocks;
        arguments.sums.first_column = batch.first_column;
        arguments.sums.is_first = batch.first_column == 0;
    });
}

int64_t size_of_sum(Metric metric) { return metric == Metric::global_cos ? 3 : 1; }

}  // namespace

int64_t gradient_workspace(const std::vector<GradientPair>& pairs, int64_t G, Metric metric) {
    int64_t blocks = 0;
    for (const auto& batch : cut(pairs, metric, MANY)) blocks = std::max<int64_t>(blocks, batch.n_blocks);
    return bytes_of<double>(G * blocks * size_of_sum(metric)) + bytes_of<double>(G * size_of_sum(metric)) +
           bytes_of<Cosine<double>>(G);
}

void gradient_distance(
    const std::vector<GradientPair>& pairs, int64_t G, Metric metric, float* distance, float* per_layer,
    unsigned* tickets, void* workspace, const Queue& queue) {
    const bool is_global = metric == Metric::global_mse || metric == Metric::global_cos;
    const auto batches = cut(pairs, metric, most_layers(queue));
    Workspace memory(workspace);
    DistanceSums sums = {};
    sums.totals = memory.take<double>(G * size_of_sum(metric));
    sums.cosines = memory.take<Cosine<double>>(G);
    sums.partials = memory.take<double>(0);  // the rest
    sums.per_layer = per_layer;
    sums.distance = distance;
    sums.tickets = tickets;
    sums.n_columns = is_global ? 1 : static_cast<int>(pairs.size());
    sums.row_mean = metric == Metric::l1_mean;

    for (const auto& batch : batches) {
        switch (metric) {
            case Metric::mse:
            case Metric::global_mse:
                launch_batch<kernel::squared_few, kernel::squared_many>(batch, sums, G, queue);
                break;
            case Metric::l1:
            case Metric::l1_mean:
                launch_batch<kernel::absolute_few, kernel::absolute_many>(batch, sums, G, queue);
                break;
            case Metric::cos:
                launch_batch<kernel::row_cosine_few, kernel::row_cosine_many>(batch, sums, G, queue);
                break;
            case Metric::global_cos:
                launch_batch<kernel::global_products_few, kernel::global_products_many>(batch, sums, G, queue);
                break;
        }
    }
    if (metric != Metric::global_cos || !has_derivatives(pairs)) return;
    for (const auto& batch : batches) {
        launch_batch<kernel::global_gradient_few, kernel::global_gradient_many>(batch, sums, G, queue);
    }
}

void scale_gradients(const std::vector<ScaledGradient>& gradients, int64_t G, const float* scale, const Queue& queue) {
    std::vector<ScaledLayer> layers;
    for (const ScaledGradient& g : gradients) layers.push_back({g.gradient, g.scaled, g.size, g.stride, 0, g.dtype});
    const auto n_blocks = [](const ScaledLayer& layer) { return ceil_div(layer.size, CHUNK); };
    for (const auto& batch : cut(layers, most_layers(queue), n_blocks)) {
        launch_smallest<kernel::scale_few, kernel::scale_many>(
            batch.layers.size(), G * batch.n_blocks, queue, [&](auto& arguments) {
                std::copy(batch.layers.begin(), batch.layers.end(), arguments.layers);
                arguments.scale = scale;
                arguments.n_layers = static_cast<int>(batch.layers.size());
                arguments.n_blocks = batch.n_blocks;
                arguments.first_column = batch.first_column;
                arguments.n_columns = static_cast<int>(gradients.size());
            });
    }
}

}  // namespace cuda
}  // namespace dream_accel
