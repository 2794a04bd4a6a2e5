// Gradient distances: the tensors are cut into chunks, whose partial sums are added in order at the end.
#include <algorithm>
#include <cmath>
#include <vector>

#include "groups.h"
#include "isa/kernels.h"
#include "operators.h"
#include "parallel.h"

namespace dream_accel {
namespace {

constexpr int64_t CHUNK = 8192;  // elements

// Rows [first, last) of one pair, or elements where the metric does not look at rows.
struct Chunk {
    const GradientPair* pair;
    int64_t first, last;
};

int64_t class_size(const GradientPair& pair) { return pair.rows * pair.length; }

std::vector<Chunk> cut(const std::vector<GradientPair>& pairs, bool by_rows) {
    std::vector<Chunk> chunks;
    for (const GradientPair& pair : pairs) {
        const int64_t size = by_rows ? pair.rows : class_size(pair);
        const int64_t step = by_rows ? std::max<int64_t>(CHUNK / std::max<int64_t>(pair.length, 1), 1) : CHUNK;
        for (int64_t first = 0; first < size; first += step)
            chunks.push_back({&pair, first, std::min(first + step, size)});
    }
    return chunks;
}

Cosine<double> finish(const Products<double>& sums) { return cosine(sums, std::sqrt(sums.xx), std::sqrt(sums.yy)); }

// Calls fn(chunk, class, index of the partial) for every chunk of every class, and returns each class's partials added
// up.
template <class Partial, class Fn, class Add>
std::vector<Partial> sum_chunks(const std::vector<Chunk>& chunks, int64_t G, int n_threads, Fn&& fn, Add&& add) {
    const int64_t n = static_cast<int64_t>(chunks.size());
    std::vector<Partial> partials(n * G), totals(G);
    parallel_for(n * G, n_threads, [&](int64_t task, int) { partials[task] = fn(chunks[task % n], task / n); });
    for (int64_t task = 0; task < n * G; ++task) add(totals[task / n], partials[task]);
    return totals;
}

double difference_chunk(const Chunk& chunk, int64_t g, Metric metric) {
    const GradientPair& pair = *chunk.pair;
    const int64_t at = g * class_size(pair) + chunk.first, n = chunk.last - chunk.first;
    float* grad = pair.grad ? pair.grad + at : nullptr;
    if (metric == Metric::mse || metric == Metric::global_mse) {
        return kernels().squared_differences(
            pair.real + at, pair.synthetic + at, n, SquaredDifference::slope_scale, grad);
    }
    const double scale = metric == Metric::l1_mean ? 1.0 / static_cast<double>(std::max<int64_t>(pair.length, 1)) : 1.0;
    const float slope_scale = AbsoluteDifference::slope_scale * static_cast<float>(scale);
    return scale * kernels().absolute_differences(pair.real + at, pair.synthetic + at, n, slope_scale, grad);
}

double cosine_chunk(const Chunk& chunk, int64_t g) {
    const GradientPair& pair = *chunk.pair;
    double total = 0.0;
    for (int64_t row = chunk.first; row < chunk.last; ++row) {
        const int64_t at = g * class_size(pair) + row * pair.length;
        const float *x = pair.real + at, *y = pair.synthetic + at;
        const Cosine<double> result = finish(kernels().products(x, y, pair.length));
        total += result.distance;
        if (pair.grad) {
            kernels().cosine_gradient(x, y, pair.length, result.along_x, result.along_y, pair.grad + at);
        }
    }
    return total;
}

void global_cosine(const std::vector<Chunk>& chunks, int64_t G, bool with_grads, float* distance, int n_threads) {
    const auto sums = sum_chunks<Products<double>>(
        chunks, G, n_threads,
        [](const Chunk& chunk, int64_t g) {
            const int64_t at = g * class_size(*chunk.pair) + chunk.first;
            return kernels().products(chunk.pair->real + at, chunk.pair->synthetic + at, chunk.last - chunk.first);
        },
        [](Products<double>& total, const Products<double>& partial) {
            total.xy += partial.xy;
            total.xx += partial.xx;
            total.yy += partial.yy;
        });
    for (int64_t g = 0; g < G; ++g) distance[g] = static_cast<float>(finish(sums[g]).distance);
    if (!with_grads) return;
    const int64_t n = static_cast<int64_t>(chunks.size());
    parallel_for(n * G, n_threads, [&](int64_t task, int) {
        const Chunk& chunk = chunks[task % n];
        const Cosine<double> result = finish(sums[task / n]);
        const int64_t at = task / n * class_size(*chunk.pair) + chunk.first;
        kernels().cosine_gradient(
            chunk.pair->real + at, chunk.pair->synthetic + at, chunk.last - chunk.first, result.along_x, result.along_y,
            chunk.pair->grad + at);
    });
}

}  // namespace

void gradient_distance(
    const std::vector<GradientPair>& pairs, int64_t G, Metric metric, float* distance, int n_threads) {
    int64_t n_elements = 0;
    for (const GradientPair& pair : pairs) n_elements += G * class_size(pair);
    n_threads = threads_for(n_elements, n_threads);
    const std::vector<Chunk> chunks = cut(pairs, metric == Metric::cos);
    if (metric == Metric::global_cos) {
        return global_cosine(chunks, G, !pairs.empty() && pairs[0].grad, distance, n_threads);
    }
    const auto totals = sum_chunks<double>(
        chunks, G, n_threads,
        [metric](const Chunk& chunk, int64_t g) {
            return metric == Metric::cos ? cosine_chunk(chunk, g) : difference_chunk(chunk, g, metric);
        },
        [](double& total, double partial) { total += partial; });
    for (int64_t g = 0; g < G; ++g) distance[g] = static_cast<float>(totals[g]);
}

}  // namespace dream_accel
