// Distances of gradients and of mean features: the tensors are cut into chunks, whose partial sums are added in order
// at the end.
#include <algorithm>
#include <cmath>
#include <vector>

#include "groups.h"
#include "isa/kernels.h"
#include "operators.h"
#include "pair_reader.h"
#include "parallel.h"

namespace dream_accel {
namespace {

constexpr int64_t CHUNK = PairReader::MAX;  // elements; longer rows are cut, for the cosine too

// Elements [first, first + n) of one layer of every class.
struct Chunk {
    const GradientPair* pair;
    int64_t column;  // of the layer in per_layer
    int64_t first, n;
    int64_t vector;  // which of Plan::vector_columns it is a part of, if any
};

// How the layers are cut into chunks. The derivative of a cosine needs sums over the whole vector: one pass suffices
// only if a chunk holds whole rows, or the metric has no such vectors.
struct Plan {
    std::vector<Chunk> complete;
    std::vector<Chunk> parts;             // of vectors longer than a chunk
    std::vector<int64_t> vector_columns;  // columns of those vectors

    Plan(const std::vector<GradientPair>& pairs, Metric metric, bool is_global) {
        if (metric == Metric::global_cos) vector_columns.push_back(0);
        for (size_t layer = 0; layer < pairs.size(); ++layer) {
            const GradientPair& pair = pairs[layer];
            const int64_t column = is_global ? 0 : static_cast<int64_t>(layer);
            if (metric == Metric::global_cos) {
                cut(parts, {&pair, column, 0, pair.size(), 0}, CHUNK);
            } else if (metric != Metric::cos) {
                cut(complete, {&pair, column, 0, pair.size(), 0}, CHUNK);
            } else if (pair.length <= CHUNK) {
                const int64_t length = std::max<int64_t>(pair.length, 1);
                cut(complete, {&pair, column, 0, pair.size(), 0}, CHUNK / length * length);
            } else {
                for (int64_t row = 0; row < pair.rows; ++row) {
                    const int64_t vector = static_cast<int64_t>(vector_columns.size());
                    cut(parts, {&pair, column, row * pair.length, pair.length, vector}, CHUNK);
                    vector_columns.push_back(column);
                }
            }
        }
    }

private:
    static void cut(std::vector<Chunk>& chunks, Chunk whole, int64_t step) {
        for (int64_t begin = 0; begin < whole.n; begin += step) {
            Chunk chunk = whole;
            chunk.first += begin;
            chunk.n = std::min(step, whole.n - begin);
            chunks.push_back(chunk);
        }
    }
};

struct Call {
    int64_t G;
    Metric metric;
    bool with_grads;
    int64_t n_columns;
    int n_threads;
};

// Calls fn(reader, chunk, class, task) for every chunk of every class; tasks count the chunks of class 0, then of 1 ...
template <class Fn>
void for_each_chunk(const std::vector<Chunk>& chunks, const Call& call, bool with_grads, Fn&& fn) {
    const int64_t n = static_cast<int64_t>(chunks.size());
    std::vector<PairReader> readers(call.n_threads);
    parallel_for(n * call.G, call.n_threads, [&](int64_t task, int slot) {
        const Chunk& chunk = chunks[task % n];
        readers[slot].open(*chunk.pair, task / n, chunk.first, chunk.n, with_grads);
        fn(readers[slot], chunk, task / n, task);
        readers[slot].close();
    });
}

double difference_sum(const PairReader& run, const Chunk& chunk, Metric metric) {
    if (metric == Metric::mse || metric == Metric::global_mse) {
        return kernels().squared_differences(run.x, run.y, chunk.n, SquaredDifference::slope_scale, run.grad);
    }
    const double length = static_cast<double>(std::max<int64_t>(chunk.pair->length, 1));
    const double scale = metric == Metric::l1_mean ? 1.0 / length : 1.0;
    const float slope_scale = AbsoluteDifference::slope_scale * static_cast<float>(scale);
    return scale * kernels().absolute_differences(run.x, run.y, chunk.n, slope_scale, run.grad);
}

Cosine<double> finish(const Products<double>& sums) { return cosine(sums, std::sqrt(sums.xx), std::sqrt(sums.yy)); }

// Whether squares of a row of this length may have left float: the sums are not finite, or one is small enough to have
// underflowed where the other makes up for it in the product of the norms.
bool outside_float(const Products<double>& sums) {
    constexpr double LARGE = 0x1p+100, SMALL = 0x1p-100;
    const double larger = std::max(sums.xx, sums.yy), smaller = std::min(sums.xx, sums.yy);
    return !(larger < LARGE) || !(smaller < LARGE) || (smaller < SMALL && larger > 1.0);
}

// The kernel's sums, in double where float does not hold the squares.
Products<double> products(const float* x, const float* y, int64_t n) {
    const Products<double> sums = kernels().products(x, y, n);
    if (!outside_float(sums)) return sums;
    Products<double> wide;
    for (int64_t i = 0; i < n; ++i) accumulate(wide, static_cast<double>(x[i]), static_cast<double>(y[i]));
    return wide;
}

// The kernel's derivative, in double where float does not hold its factors.
void cosine_gradient(
    const float* x, const float* y, int64_t n, const Products<double>& sums, const Cosine<double>& row, float* grad) {
    if (!outside_float(sums)) {
        kernels().cosine_gradient(x, y, n, row.along_x, row.along_y, grad);
        return;
    }
    for (int64_t i = 0; i < n; ++i) {
        const double slope =
            cosine_slope(static_cast<double>(x[i]), static_cast<double>(y[i]), row.along_x, row.along_y);
        grad[i] = static_cast<float>(slope);
    }
}

double row_cosines(const PairReader& run, const Chunk& chunk) {
    const int64_t length = chunk.pair->length;
    double total = 0.0;
    for (int64_t at = 0; at < chunk.n; at += length) {
        const Products<double> sums = products(run.x + at, run.y + at, length);
        const Cosine<double> row = finish(sums);
        total += row.distance;
        if (run.grad) cosine_gradient(run.x + at, run.y + at, length, sums, row, run.grad + at);
    }
    return total;
}

// Adds the distances of complete chunks to totals (G, n_columns).
void add_complete(const std::vector<Chunk>& chunks, const Call& call, std::vector<double>& totals) {
    const int64_t n = static_cast<int64_t>(chunks.size());
    std::vector<double> partials(n * call.G);
    for_each_chunk(chunks, call, call.with_grads, [&](PairReader& run, const Chunk& chunk, int64_t, int64_t task) {
        partials[task] = call.metric == Metric::cos ? row_cosines(run, chunk) : difference_sum(run, chunk, call.metric);
    });
    for (int64_t task = 0; task < n * call.G; ++task) {
        totals[task / n * call.n_columns + chunks[task % n].column] += partials[task];
    }
}

// Adds the cosines of vectors that were cut: first all of their sums, then their derivatives.
void add_vectors(const Plan& plan, const Call& call, std::vector<double>& totals) {
    const int64_t n = static_cast<int64_t>(plan.parts.size()), V = static_cast<int64_t>(plan.vector_columns.size());
    std::vector<Products<double>> partials(n * call.G), sums(V * call.G);
    for_each_chunk(plan.parts, call, false, [&](PairReader& run, const Chunk& chunk, int64_t, int64_t task) {
        partials[task] = products(run.x, run.y, chunk.n);
    });
    for (int64_t task = 0; task < n * call.G; ++task) {
        add(sums[task / n * V + plan.parts[task % n].vector], partials[task]);
    }
    std::vector<Cosine<double>> results;
    for (int64_t i = 0; i < V * call.G; ++i) {
        results.push_back(finish(sums[i]));
        totals[i / V * call.n_columns + plan.vector_columns[i % V]] += results[i].distance;
    }
    if (!call.with_grads) return;
    for_each_chunk(plan.parts, call, true, [&](PairReader& run, const Chunk& chunk, int64_t g, int64_t) {
        const int64_t vector = g * V + chunk.vector;
        cosine_gradient(run.x, run.y, chunk.n, sums[vector], results[vector], run.grad);
    });
}

// A row without elements has no chunk, and by the formula the distance 1.
void add_empty_rows(const std::vector<GradientPair>& pairs, const Call& call, std::vector<double>& totals) {
    for (size_t layer = 0; layer < pairs.size(); ++layer) {
        if (pairs[layer].length != 0) continue;
        for (int64_t g = 0; g < call.G; ++g)
            totals[g * call.n_columns + layer] += static_cast<double>(pairs[layer].rows);
    }
}

}  // namespace

void gradient_distance(
    const std::vector<GradientPair>& pairs, int64_t G, Metric metric, float* distance, float* per_layer,
    int n_threads) {
    int64_t n_elements = 0;
    for (const GradientPair& pair : pairs) {
        n_elements += G * pair.size() * std::max(pair.real_batch, pair.synthetic_batch);
    }
    const bool is_global = metric == Metric::global_mse || metric == Metric::global_cos;
    const int64_t n_columns = is_global ? 1 : static_cast<int64_t>(pairs.size());
    const Call call = {G, metric, has_derivatives(pairs), n_columns, threads_for(n_elements, n_threads)};

    const Plan plan(pairs, metric, is_global);
    std::vector<double> totals(G * n_columns);
    add_complete(plan.complete, call, totals);
    if (!plan.vector_columns.empty()) add_vectors(plan, call, totals);
    if (metric == Metric::cos) add_empty_rows(pairs, call, totals);
    for (int64_t g = 0; g < G; ++g) {
        double sum = 0.0;
        for (int64_t column = 0; column < n_columns; ++column) sum += totals[g * n_columns + column];
        for (int64_t column = 0; column < n_columns; ++column) {
            per_layer[g * n_columns + column] = static_cast<float>(totals[g * n_columns + column]);
        }
        distance[g] = static_cast<float>(sum);
    }
}

void scale_gradients(const std::vector<ScaledGradient>& gradients, int64_t G, const float* scale, int n_threads) {
    struct Task {
        size_t layer;
        int64_t first;
    };
    std::vector<Task> tasks;
    int64_t n_elements = 0;
    for (size_t layer = 0; layer < gradients.size(); ++layer) {
        n_elements += G * gradients[layer].size;
        for (int64_t first = 0; first < gradients[layer].size; first += CHUNK) tasks.push_back({layer, first});
    }
    n_threads = threads_for(n_elements, n_threads);
    std::vector<Buffer<float>> scratch(n_threads);
    const int64_t n = static_cast<int64_t>(tasks.size());
    parallel_for(n * G, n_threads, [&](int64_t task, int slot) {
        const int64_t g = task / n, first = tasks[task % n].first;
        const size_t layer = tasks[task % n].layer;
        const ScaledGradient& tensor = gradients[layer];
        const int64_t bytes = size_of(tensor.dtype), count = std::min(CHUNK, tensor.size - first);
        const char* source = static_cast<const char*>(tensor.gradient) + (g * tensor.stride + first) * bytes;
        char* target = static_cast<char*>(tensor.scaled) + (g * tensor.size + first) * bytes;
        const float* values = reinterpret_cast<const float*>(source);
        if (tensor.dtype != Dtype::float32) {
            if (!scratch[slot]) scratch[slot] = make_buffer<float>(CHUNK);
            kernels().to_float(source, tensor.dtype, count, scratch[slot].get());
            values = scratch[slot].get();
        }
        kernels().from_float(
            values, count, scale[g * static_cast<int64_t>(gradients.size()) + layer], target, tensor.dtype);
    });
}

}  // namespace dream_accel
