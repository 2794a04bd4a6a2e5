// Sums of a distance: over a block, and by the last block of a class over the partial sums of all its blocks, in the
// order of their index. So there are no floating-point atomics and the bits are the same every time.
#pragma once

#include "../metrics.h"
#include "device.cuh"
#include "distance_arguments.h"

namespace dream_accel {
namespace cuda {

using dream_accel::add;
__device__ __forceinline__ void add(double& total, double value) { total += value; }

__device__ __forceinline__ double sum_of_lanes(double value, int lanes) { return lanes_sum(value, lanes); }
__device__ __forceinline__ Products<double> sum_of_lanes(const Products<double>& sums, int lanes) {
    return {lanes_sum(sums.xy, lanes), lanes_sum(sums.xx, lanes), lanes_sum(sums.yy, lanes)};
}

__device__ __forceinline__ double load_uncached(const double* at) { return __ldcg(at); }
__device__ __forceinline__ Products<double> load_uncached(const Products<double>* at) {
    return {__ldcg(&at->xy), __ldcg(&at->xx), __ldcg(&at->yy)};
}

// Sum over the block, for every thread. Sum is double or Products<double>.
template <class Sum>
__device__ Sum block_sum(Sum value) {
    constexpr int WARPS = DISTANCE_THREADS / WARP;
    __shared__ Sum of_warp[WARPS];
    value = sum_of_lanes(value, WARP);
    if (lane() == 0) of_warp[warp()] = value;
    __syncthreads();
    Sum total = of_warp[0];
    for (int w = 1; w < WARPS; ++w) add(total, of_warp[w]);
    __syncthreads();  // of_warp may be written again
    return total;
}

// Tells all threads of the block whether it is the last of n_blocks to come here; then it sees what the others wrote.
__device__ __forceinline__ bool is_last_block(unsigned* ticket, int n_blocks) {
    __shared__ bool is_last;
    if (threadIdx.x == 0) {
        __threadfence();
        // Counts to n_blocks - 1 and then from 0 again: ready for the next launch, and for the replay of a graph.
        is_last = atomicInc(ticket, n_blocks - 1) == static_cast<unsigned>(n_blocks - 1);
        __threadfence();
    }
    __syncthreads();
    return is_last;
}

// Adds the partial sums first to last - 1 of a class, over the lanes of a warp, always in the same order.
template <class Sum>
__device__ __forceinline__ Sum sum_partials(const Sum* partials, int first, int last) {
    Sum sum = {};
    for (int i = first + lane(); i < last; i += WARP) add(sum, load_uncached(partials + i));
    return sum_of_lanes(sum, WARP);
}

// Distances of the layers of this launch, and of the class.
__device__ inline void finish_layers(const LayerPair* layers, const DistanceSums& s, long long group) {
    const double* partials = static_cast<const double*>(s.partials) + group * s.n_blocks;
    double of_warp = 0.0;
    for (int i = warp(); i < s.n_layers; i += DISTANCE_THREADS / WARP) {
        const int last = i + 1 < s.n_layers ? layers[i + 1].first_block : s.n_blocks;
        double sum = sum_partials(partials, layers[i].first_block, last);
        if (s.row_mean && layers[i].length > 0) sum /= static_cast<double>(layers[i].length);
        if (lane() == 0) {
            if (s.n_columns > 1) s.per_layer[group * s.n_columns + s.first_column + i] = static_cast<float>(sum);
            of_warp += sum;
        }
    }
    double total = block_sum(of_warp);
    if (threadIdx.x != 0) return;
    double* so_far = static_cast<double*>(s.totals) + group;
    if (!s.is_first) total += *so_far;
    *so_far = total;
    s.distance[group] = static_cast<float>(total);
    if (s.n_columns == 1) s.per_layer[group] = static_cast<float>(total);
}

__device__ __forceinline__ Cosine<double> finish(const Products<double>& sums) {
    return cosine(sums, sqrt(sums.xx), sqrt(sums.yy));
}

// global_cos: the distance of the class, and what its derivative needs.
__device__ inline void finish_products(const DistanceSums& s, long long group) {
    __shared__ Products<double> of_warp[DISTANCE_THREADS / WARP];
    const auto* partials = static_cast<const Products<double>*>(s.partials) + group * s.n_blocks;
    Products<double> sum = {};
    for (int i = threadIdx.x; i < s.n_blocks; i += DISTANCE_THREADS) add(sum, load_uncached(partials + i));
    sum = sum_of_lanes(sum, WARP);
    if (lane() == 0) of_warp[warp()] = sum;
    __syncthreads();
    if (threadIdx.x != 0) return;
    for (int w = 1; w < DISTANCE_THREADS / WARP; ++w) add(sum, of_warp[w]);
    auto* so_far = static_cast<Products<double>*>(s.totals) + group;
    if (!s.is_first) add(sum, *so_far);
    *so_far = sum;
    const Cosine<double> result = finish(sum);
    s.cosines[group] = result;
    s.distance[group] = s.per_layer[group] = static_cast<float>(result.distance);
}

}  // namespace cuda
}  // namespace dream_accel
