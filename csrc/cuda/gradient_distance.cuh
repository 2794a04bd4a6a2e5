// Distances of many layers and classes, and their derivatives, in one launch: every block writes its share of the
// derivative and a partial sum, and the last block of a class to finish adds up the partial sums (distance_sums.cuh).
#pragma once

#include "../metrics.h"
#include "device.cuh"
#include "distance_arguments.h"
#include "distance_sums.cuh"
#include "layer_reader.cuh"

namespace dream_accel {
namespace cuda {

// What this block works on: the block-th part of a layer of a class.
struct Place {
    int layer;
    int block;
    long long group;
};

template <class Layer>
__device__ __forceinline__ Place locate(const Layer* layers, int n_layers, int n_blocks) {
    const int block = static_cast<int>(blockIdx.x % n_blocks);
    int low = 0, high = n_layers - 1;
    while (low < high) {
        const int middle = (low + high + 1) / 2;
        if (layers[middle].first_block <= block) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    return {low, block - layers[low].first_block, blockIdx.x / n_blocks};
}

// The threads that share some elements, and sums over them, for each.
struct Block {
    static constexpr int THREADS = DISTANCE_THREADS;
    static __device__ __forceinline__ int thread() { return threadIdx.x; }
    template <class Sum>
    static __device__ __forceinline__ Sum sum(const Sum& value) {
        return block_sum(value);
    }
};

struct Warp {
    static constexpr int THREADS = WARP;
    static __device__ __forceinline__ int thread() { return lane(); }
    template <class Sum>
    static __device__ __forceinline__ Sum sum(const Sum& value) {
        return sum_of_lanes(value, WARP);
    }
};

// Calls fn(x, y), which returns a derivative, for n pairs shared out among threads.
template <class Team, class X, class Y, class Target, class Fn>
__device__ __forceinline__ void for_each_pair(const X& x, const Y& y, const Target& target, long long n, Fn fn) {
#pragma unroll 1
    for (long long i = 4 * Team::thread(); i < n; i += 4 * Team::THREADS) visit_four(x, y, target, i, n, fn);
}

struct Part {
    long long first, n;
};

__device__ __forceinline__ Part chunk(const LayerPair& layer, int block) {
    const int step = chunk_of(layer.real_batch, layer.synthetic_batch);
    const long long first = static_cast<long long>(block) * step, left = layer.rows * layer.length - first;
    return {first, left < 0 ? 0 : left < step ? left : step};
}

// mse, l1, l1_mean: value and derivative of one chunk in one pass.
template <class Difference, int N>
__device__ __forceinline__ void difference(const DistanceArguments<N>& a) {
    const Place place = locate(a.layers, a.sums.n_layers, a.sums.n_blocks);
    const LayerPair& layer = a.layers[place.layer];
    const Part part = chunk(layer, place.block);
    const float length = static_cast<float>(layer.length);
    const float slope_scale = a.sums.row_mean ? Difference::slope_scale / length : Difference::slope_scale;
    float sum = 0.0f;
    with_layer(layer, place.group, part.first, [&](const auto& x, const auto& y, const auto& target) {
        for_each_pair<Block>(x, y, target, part.n, [&](float a, float b) {
            const float difference = b - a;
            sum += Difference::term(difference);
            return slope_scale * Difference::slope(difference);
        });
    });
    const double total = block_sum(static_cast<double>(sum));
    if (threadIdx.x == 0) static_cast<double*>(a.sums.partials)[blockIdx.x] = total;
    if (is_last_block(a.sums.tickets + place.group, a.sums.n_blocks)) finish_layers(a.layers, a.sums, place.group);
}

// Whether floats hold a sum of squares as well as doubles do: none of its terms that matter is infinite or subnormal.
__device__ __forceinline__ bool in_float_range(double squares) { return squares > 0x1p-90 && squares < 0x1p127; }

// Sums over n elements, for every thread. Floats are added up for IN_FLOAT elements of a thread at most; where their
// range does not do, doubles, in another pass through the cache.
constexpr int IN_FLOAT = CHUNK / DISTANCE_THREADS;

template <class Team, class X, class Y, class Target>
__device__ __forceinline__ Products<double> products(const X& x, const Y& y, Target nowhere, long long n) {
    constexpr int STEP = IN_FLOAT * Team::THREADS;
    nowhere.at = nullptr;
    Products<double> total;
#pragma unroll 1
    for (long long begin = 4 * Team::thread(); begin < n; begin += STEP) {
        Products<float> sums;
#pragma unroll 1
        for (long long i = begin; i < n && i < begin + STEP; i += 4 * Team::THREADS) {
            visit_four(x, y, nowhere, i, n, [&](float a, float b) {
                accumulate(sums, a, b);
                return 0.0f;
            });
        }
        add(total, Products<double>{sums.xy, sums.xx, sums.yy});
    }
    total = Team::sum(total);
    if (in_float_range(total.xx) && in_float_range(total.yy)) return total;
    total = {};
#pragma unroll 1
    for (long long i = 4 * Team::thread(); i < n; i += 4 * Team::THREADS) {
        visit_four(x, y, nowhere, i, n, [&](float a, float b) {
            accumulate(total, static_cast<double>(a), static_cast<double>(b));
            return 0.0f;
        });
    }
    return Team::sum(total);
}

// A power of two by which values are multiplied, and their factor in a derivative divided, so that floats hold both.
__device__ __forceinline__ float value_scale(double factor) {
    const double size = fabs(factor);
    return size == 0.0 || !(size < 0x1p-126) ? 1.0f : size < 0x1p-180 ? 0x1p-120f : 0x1p-64f;
}

template <class Team, class X, class Y, class Target>
__device__ __forceinline__ void cosine_gradient(
    const X& x, const Y& y, const Target& target, long long n, const Cosine<double>& result) {
    const float x_scale = value_scale(result.along_x), y_scale = value_scale(result.along_y);
    const float along_x = static_cast<float>(result.along_x / x_scale);
    const float along_y = static_cast<float>(result.along_y / y_scale);
    if (target.at) {
        for_each_pair<Team>(x, y, target, n, [&](float a, float b) {
            return cosine_slope(a * x_scale, b * y_scale, along_x, along_y);
        });
    }
}

// One row by `lanes` neighbouring lanes; its distance, for each of them. All in double: rows of one element, those of
// 1-d parameters, are parallel, and the two parts of the derivative cancel to the last digits.
template <class X, class Y, class Target>
__device__ __forceinline__ double short_row(
    const X& x, const Y& y, const Target& target, int n, int lanes, bool exists) {
    const int begin = lane() % lanes, end = exists ? n : 0;
    Products<double> sums;
#pragma unroll 1
    for (int i = begin; i < end; i += lanes) {
        accumulate(sums, static_cast<double>(x[i]), static_cast<double>(y[i]));
    }
    const Cosine<double> row = finish(sum_of_lanes(sums, lanes));
    if (target.at) {
#pragma unroll 1
        for (int i = begin; i < end; i += lanes) {
            const double a = x[i], b = y[i];
            target.set(i, static_cast<float>(cosine_slope(a, b, row.along_x, row.along_y)));
        }
    }
    return exists ? row.distance : 0.0;
}

// One row by a warp or a block; its distance, for each of the threads.
template <class Team, class X, class Y, class Target>
__device__ __forceinline__ double long_row(const X& x, const Y& y, const Target& target, long long n) {
    const Cosine<double> row = finish(products<Team>(x, y, target, n));
    cosine_gradient<Team>(x, y, target, n, row);
    return row.distance;
}

// cos: the rows are read twice, the second time from the cache.
template <int N>
__device__ __forceinline__ void row_cosine(const DistanceArguments<N>& a) {
    const Place place = locate(a.layers, a.sums.n_layers, a.sums.n_blocks);
    const LayerPair& layer = a.layers[place.layer];
    const int threads = threads_of_row(layer.length);
    const long long row = static_cast<long long>(place.block) * (DISTANCE_THREADS / threads) + threadIdx.x / threads;
    const bool exists = row < layer.rows;
    double distance = 0.0;
    with_layer(
        layer, place.group, (exists ? row : 0) * layer.length, [&](const auto& x, const auto& y, const auto& target) {
            const long long n = exists ? layer.length : 0;
            if (layer.length <= LONGEST_DOUBLE_ROW) {
                distance = short_row(x, y, target, static_cast<int>(layer.length), threads, exists);
            } else {
                distance = threads == WARP ? long_row<Warp>(x, y, target, n) : long_row<Block>(x, y, target, n);
            }
            if (!exists || threadIdx.x % threads != 0) distance = 0.0;
        });
    distance = block_sum(distance);
    if (threadIdx.x == 0) static_cast<double*>(a.sums.partials)[blockIdx.x] = distance;
    if (is_last_block(a.sums.tickets + place.group, a.sums.n_blocks)) finish_layers(a.layers, a.sums, place.group);
}

// global_cos: the sums of one chunk.
template <int N>
__device__ __forceinline__ void global_products(const DistanceArguments<N>& a) {
    const Place place = locate(a.layers, a.sums.n_layers, a.sums.n_blocks);
    const LayerPair& layer = a.layers[place.layer];
    const Part part = chunk(layer, place.block);
    Products<double> sums;
    with_layer(layer, place.group, part.first, [&](const auto& x, const auto& y, const auto& target) {
        sums = products<Block>(x, y, target, part.n);
    });
    if (threadIdx.x == 0) static_cast<Products<double>*>(a.sums.partials)[blockIdx.x] = sums;
    if (is_last_block(a.sums.tickets + place.group, a.sums.n_blocks)) finish_products(a.sums, place.group);
}

// global_cos: the derivative over one chunk, from the cosine of its class.
template <int N>
__device__ __forceinline__ void global_gradient(const DistanceArguments<N>& a) {
    const Place place = locate(a.layers, a.sums.n_layers, a.sums.n_blocks);
    const LayerPair& layer = a.layers[place.layer];
    const Part part = chunk(layer, place.block);
    const Cosine<double> result = a.sums.cosines[place.group];
    with_layer(layer, place.group, part.first, [&](const auto& x, const auto& y, const auto& target) {
        cosine_gradient<Block>(x, y, target, part.n, result);
    });
}

// scaled = gradient * the scale of its class and layer.
template <int N>
__device__ __forceinline__ void scale_gradients(const ScaleArguments<N>& a) {
    const Place place = locate(a.layers, a.n_layers, a.n_blocks);
    const ScaledLayer& layer = a.layers[place.layer];
    const long long first = static_cast<long long>(place.block) * CHUNK, left = layer.size - first;
    const long long n = left < 0 ? 0 : left < CHUNK ? left : CHUNK;
    const float scale = a.scale[place.group * a.n_columns + a.first_column + place.layer];
    with_type(layer.dtype, [&](auto* type) {
        using T = stored_type<decltype(type)>;
        const Run<T> gradient = {advance<T>(layer.gradient, place.group * layer.stride + first)};
        const RunTarget<T> target = {static_cast<T*>(layer.scaled) + place.group * layer.size + first};
        for_each_pair<Block>(gradient, gradient, target, n, [&](float value, float) { return value * scale; });
    });
}

}  // namespace cuda
}  // namespace dream_accel
