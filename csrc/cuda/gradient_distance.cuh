// Device code of the gradient distance: one launch over all tensors and classes, then one small launch that adds the
// partial sums of every class in index order. No atomics: the same bits every time.
//
// Needs nothing from the host's headers, so a run-time compiler can take it as it is.
#pragma once

#include "../metrics.h"

namespace dream_accel {
namespace cuda {

constexpr int THREADS = 256;
constexpr int BLOCKS_PER_SM = 4;  // at least: what the registers must leave room for
constexpr int WARP = 32;
constexpr int WARPS = THREADS / WARP;
constexpr int CHUNK = 4096;      // elements of a block, where the metric does not look at rows
constexpr int WARP_ROW = 256;    // rows up to this length take a warp each, longer ones a block each
constexpr int MAX_TENSORS = 64;  // per launch: the argument stays under 4 KB
constexpr unsigned ALL_LANES = 0xffffffffu;

struct Tensor {
    const float* real;
    const float* synthetic;
    float* grad;      // or null
    long long rows;   // of one class
    long long size;   // elements of one class
    int length;       // of a row
    int first_block;  // of a class, within this launch
};

// Passed by value: no copy to the device comes before the launch, and a graph keeps it.
struct Batch {
    Tensor tensors[MAX_TENSORS];
    int n_tensors;
    int n_blocks;             // of a class, in this launch
    long long first_partial;  // of this launch, within a class
    long long n_partials;     // of a class, in all launches
};

struct Place {
    const Tensor* tensor;
    int block;  // within the tensor
    long long group;
    long long partial;
};

__device__ __forceinline__ Place locate(const Batch& batch) {
    const int block = static_cast<int>(blockIdx.x % batch.n_blocks);
    const long long group = blockIdx.x / batch.n_blocks;
    int low = 0, high = batch.n_tensors - 1;
    while (low < high) {
        const int middle = (low + high + 1) / 2;
        if (batch.tensors[middle].first_block <= block) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    const Tensor* tensor = &batch.tensors[low];
    return {tensor, block - tensor->first_block, group, group * batch.n_partials + batch.first_partial + block};
}

__device__ __forceinline__ double warp_sum(double value) {
    for (int step = WARP / 2; step > 0; step /= 2) value += __shfl_xor_sync(ALL_LANES, value, step);
    return value;
}

__device__ __forceinline__ Products<double> warp_sum(Products<double> sums) {
    return {warp_sum(sums.xy), warp_sum(sums.xx), warp_sum(sums.yy)};
}

__device__ __forceinline__ void add(double& total, double value) { total += value; }

__device__ __forceinline__ void add(Products<double>& total, const Products<double>& sums) {
    total.xy += sums.xy;
    total.xx += sums.xx;
    total.yy += sums.yy;
}

// Sum over the block, for every thread. Sum is double or Products<double>.
template <class Sum>
__device__ Sum block_sum(Sum value) {
    __shared__ Sum of_warp[WARPS];
    value = warp_sum(value);
    if (threadIdx.x % WARP == 0) of_warp[threadIdx.x / WARP] = value;
    __syncthreads();
    Sum total = of_warp[0];
    for (int w = 1; w < WARPS; ++w) add(total, of_warp[w]);
    __syncthreads();  // of_warp may be written again
    return total;
}

__device__ __forceinline__ bool aligned(const void* pointer) {
    return reinterpret_cast<unsigned long long>(pointer) % 16 == 0;
}

// Calls fn(x, y) for n elements shared out among the block's threads and stores what it returns, where grad is given.
template <class Fn>
__device__ __forceinline__ void for_each_pair(const float* x, const float* y, float* grad, int n, Fn fn) {
    int done = 0;
    if (aligned(x) && aligned(y) && aligned(grad)) {
        done = n / 4 * 4;
        for (int i = 4 * threadIdx.x; i < done; i += 4 * THREADS) {
            const float4 a = *reinterpret_cast<const float4*>(x + i);
            const float4 b = *reinterpret_cast<const float4*>(y + i);
            const float4 slope = {fn(a.x, b.x), fn(a.y, b.y), fn(a.z, b.z), fn(a.w, b.w)};
            if (grad) *reinterpret_cast<float4*>(grad + i) = slope;
        }
    }
    for (int i = done + threadIdx.x; i < n; i += THREADS) {
        const float slope = fn(x[i], y[i]);
        if (grad) grad[i] = slope;
    }
}

// mse, l1, l1_mean: value and derivative of one chunk in one pass.
template <class Difference, bool ROW_MEAN>
__global__ void __launch_bounds__(THREADS, BLOCKS_PER_SM)
    difference_kernel(const __grid_constant__ Batch batch, double* partials) {
    const Place place = locate(batch);
    const Tensor& t = *place.tensor;
    const long long first = static_cast<long long>(place.block) * CHUNK;
    const int n = static_cast<int>(t.size - first < CHUNK ? t.size - first : CHUNK);
    const long long at = place.group * t.size + first;
    const float slope_scale = ROW_MEAN ? Difference::slope_scale / t.length : Difference::slope_scale;

    float sum = 0.0f;
    for_each_pair(t.real + at, t.synthetic + at, t.grad ? t.grad + at : nullptr, n, [&](float x, float y) {
        const float difference = y - x;
        sum += Difference::term(difference);
        return slope_scale * Difference::slope(difference);
    });
    const double total = block_sum(static_cast<double>(sum));
    if (threadIdx.x == 0) partials[place.partial] = ROW_MEAN ? total / t.length : total;
}

__device__ __forceinline__ Cosine<double> finish(const Products<double>& sums) {
    return cosine(sums, sqrt(sums.xx), sqrt(sums.yy));
}

// Sums of n elements over the block, for every thread.
__device__ __forceinline__ Products<double> block_products(const float* x, const float* y, int n) {
    Products<float> sums;
    for_each_pair(x, y, nullptr, n, [&](float a, float b) {
        accumulate(sums, a, b);
        return 0.0f;
    });
    return block_sum(Products<double>{sums.xy, sums.xx, sums.yy});
}

__device__ __forceinline__ void block_cosine_gradient(
    const float* x, const float* y, float* grad, int n, const Cosine<double>& row) {
    const float along_x = static_cast<float>(row.along_x), along_y = static_cast<float>(row.along_y);
    for_each_pair(x, y, grad, n, [&](float a, float b) { return cosine_slope(a, b, along_x, along_y); });
}

// One row of at most WARP_ROW elements; its distance, for every lane. All in double: rows of one element, those of 1-d
// parameters, are parallel, and the two parts of the derivative cancel to the last digits.
__device__ __forceinline__ double warp_row(const float* x, const float* y, float* grad, int n) {
    const int lane = threadIdx.x % WARP;
    Products<double> sums;
    for (int i = lane; i < n; i += WARP) accumulate(sums, static_cast<double>(x[i]), static_cast<double>(y[i]));
    const Cosine<double> row = finish(warp_sum(sums));
    if (grad) {
        for (int i = lane; i < n; i += WARP) {
            const double slope =
                cosine_slope(static_cast<double>(x[i]), static_cast<double>(y[i]), row.along_x, row.along_y);
            grad[i] = static_cast<float>(slope);
        }
    }
    return row.distance;
}

// cos: the rows are read twice, the second time from the cache.
__global__ void __launch_bounds__(THREADS, BLOCKS_PER_SM)
    cosine_kernel(const __grid_constant__ Batch batch, double* partials) {
    const Place place = locate(batch);
    const Tensor& t = *place.tensor;
    const long long base = place.group * t.size;
    if (t.length > WARP_ROW) {
        const long long at = base + static_cast<long long>(place.block) * t.length;
        const Cosine<double> result = finish(block_products(t.real + at, t.synthetic + at, t.length));
        if (t.grad) block_cosine_gradient(t.real + at, t.synthetic + at, t.grad + at, t.length, result);
        if (threadIdx.x == 0) partials[place.partial] = result.distance;
        return;
    }
    const long long row = static_cast<long long>(place.block) * WARPS + threadIdx.x / WARP;
    const long long at = base + row * t.length;
    double distance = 0.0;
    if (row < t.rows) {
        distance = warp_row(t.real + at, t.synthetic + at, t.grad ? t.grad + at : nullptr, t.length);
    }
    const double total = block_sum(threadIdx.x % WARP == 0 ? distance : 0.0);
    if (threadIdx.x == 0) partials[place.partial] = total;
}

// global_cos: the sums of one chunk.
__global__ void __launch_bounds__(THREADS, BLOCKS_PER_SM)
    products_kernel(const __grid_constant__ Batch batch, Products<double>* partials) {
    const Place place = locate(batch);
    const Tensor& t = *place.tensor;
    const long long first = static_cast<long long>(place.block) * CHUNK;
    const int n = static_cast<int>(t.size - first < CHUNK ? t.size - first : CHUNK);
    const long long at = place.group * t.size + first;
    const Products<double> sums = block_products(t.real + at, t.synthetic + at, n);
    if (threadIdx.x == 0) partials[place.partial] = sums;
}

// global_cos: the derivative over one chunk, from the result of its class.
__global__ void __launch_bounds__(THREADS, BLOCKS_PER_SM)
    global_cosine_kernel(const __grid_constant__ Batch batch, const Cosine<double>* results) {
    const Place place = locate(batch);
    const Tensor& t = *place.tensor;
    const long long first = static_cast<long long>(place.block) * CHUNK;
    const int n = static_cast<int>(t.size - first < CHUNK ? t.size - first : CHUNK);
    const long long at = place.group * t.size + first;
    block_cosine_gradient(t.real + at, t.synthetic + at, t.grad + at, n, results[place.group]);
}

// One block per class: adds its partials, always in the same order.
template <class Sum>
__device__ __forceinline__ Sum sum_partials(const Sum* partials, long long n) {
    Sum sum = {};
    for (long long i = threadIdx.x; i < n; i += THREADS) add(sum, partials[blockIdx.x * n + i]);
    return block_sum(sum);
}

__global__ void __launch_bounds__(THREADS, BLOCKS_PER_SM)
    sum_kernel(const double* partials, long long n, float* column, long long n_columns) {
    const double total = sum_partials(partials, n);
    if (threadIdx.x == 0) column[blockIdx.x * n_columns] = static_cast<float>(total);
}

__global__ void __launch_bounds__(THREADS, BLOCKS_PER_SM) finish_cosine_kernel(
    const Products<double>* partials, long long n, float* column, long long n_columns, Cosine<double>* results) {
    const Cosine<double> result = finish(sum_partials(partials, n));
    if (threadIdx.x == 0) {
        column[blockIdx.x * n_columns] = static_cast<float>(result.distance);
        results[blockIdx.x] = result;
    }
}

}  // namespace cuda
}  // namespace dream_accel
