// The elements of a layer as floats, however they are stored: quadruples of a run of memory where that is possible.
//
// Which thread takes which element does not depend on how it is stored or aligned, so neither do the bits of a sum.
#pragma once

#include "device.cuh"
#include "distance_arguments.h"

namespace dream_accel {
namespace cuda {

// What a thread loads or stores at once.
template <class T>
struct alignas(4 * sizeof(T)) Quad {
    T of[4];
};

// A run of memory.
template <class T>
struct Run {
    const T* at;

    __device__ __forceinline__ float operator[](long long i) const { return to_float(at[i]); }
};

__device__ __forceinline__ float load(const void* at, Dtype dtype, long long i) {
    if (dtype == Dtype::float32) return static_cast<const float*>(at)[i];
    if (dtype == Dtype::float16) return to_float(static_cast<const Float16*>(at)[i]);
    return to_float(static_cast<const BFloat16*>(at)[i]);
}

// Elements from the first-th of one class on, of any type, each the mean over a batch, in the order of the other side.
struct Gathered {
    const void* at;  // the class
    Dtype dtype;
    int batch;
    int interleave;  // 1: laid out like the other side
    long long length, size;
    long long first;

    __device__ __forceinline__ float operator[](long long i) const {
        i += first;
        if (interleave > 1) {
            const long long in_row = i % length, across = in_row % interleave;
            i = i - in_row + across * (length / interleave) + in_row / interleave;
        }
        if (batch == 1) return load(at, dtype, i);
        double sum = 0.0;
#pragma unroll 4
        for (int image = 0; image < batch; ++image) sum += static_cast<double>(load(at, dtype, image * size + i));
        return static_cast<float>(sum / batch);
    }
};

// Where derivatives go.
template <class T>
struct RunTarget {
    T* at;  // or null

    __device__ __forceinline__ void set(long long i, float slope) const { store(at + i, slope); }
};

// The same for any type. Every image of a batch has its share of the derivative in the mean.
struct AnyTarget {
    void* at;  // or null
    Dtype dtype;
    float share;

    __device__ __forceinline__ void set(long long i, float slope) const {
        if (dtype == Dtype::float32) {
            static_cast<float*>(at)[i] = slope * share;
        } else if (dtype == Dtype::float16) {
            store(static_cast<Float16*>(at) + i, slope * share);
        } else {
            store(static_cast<BFloat16*>(at) + i, slope * share);
        }
    }
};

// Calls fn(x, y), which returns a derivative, for elements i to i + 3 as far as there are n.
template <class X, class Y, class Target, class Fn>
__device__ __forceinline__ void visit_four(
    const X& x, const Y& y, const Target& target, long long i, long long n, Fn fn) {
#pragma unroll 1
    for (long long e = i; e < i + 4 && e < n; ++e) {
        const float slope = fn(x[e], y[e]);
        if (target.at) target.set(e, slope);
    }
}

template <class T>
__device__ __forceinline__ bool has_quad(const T* at) {
    return reinterpret_cast<unsigned long long>(at) % sizeof(Quad<T>) == 0;
}

template <class T, class Fn>
__device__ __forceinline__ void visit_four(
    const Run<T>& x, const Run<T>& y, const RunTarget<T>& target, long long i, long long n, Fn fn) {
    if (i + 4 > n || !has_quad(x.at + i) || !has_quad(y.at + i) || !has_quad(target.at + i)) {
        visit_four<Run<T>, Run<T>, RunTarget<T>, Fn>(x, y, target, i, n, fn);
        return;
    }
    const Quad<T> a = *reinterpret_cast<const Quad<T>*>(x.at + i), b = *reinterpret_cast<const Quad<T>*>(y.at + i);
    Quad<T> slopes;
#pragma unroll
    for (int e = 0; e < 4; ++e) store(&slopes.of[e], fn(to_float(a.of[e]), to_float(b.of[e])));
    if (target.at) *reinterpret_cast<Quad<T>*>(target.at + i) = slopes;
}

template <class T>
__device__ __forceinline__ const T* advance(const void* tensor, long long elements) {
    return static_cast<const T*>(tensor) + elements;
}

__device__ __forceinline__ const void* advance(const void* tensor, Dtype dtype, long long elements) {
    return static_cast<const char*>(tensor) + elements * (dtype == Dtype::float32 ? 4 : 2);
}

// Calls fn(x, y, target) with readers of class g of a layer from the first-th element on: plain runs of memory where
// both sides are stored alike, else gathered element by element.
template <class Fn>
__device__ __forceinline__ void with_layer(const LayerPair& layer, long long g, long long first, Fn fn) {
    const Dtype real_dtype = static_cast<Dtype>(layer.real_dtype);
    const Dtype dtype = static_cast<Dtype>(layer.synthetic_dtype);
    const long long size = layer.rows * layer.length;
    if (real_dtype == dtype && layer.interleave == 1 && layer.real_batch == 1 && layer.synthetic_batch == 1) {
        with_type(dtype, [&](auto* type) {
            using T = stored_type<decltype(type)>;
            fn(Run<T>{advance<T>(layer.real, g * layer.real_stride + first)},
               Run<T>{advance<T>(layer.synthetic, g * layer.synthetic_stride + first)},
               RunTarget<T>{layer.grad ? static_cast<T*>(layer.grad) + g * size + first : nullptr});
        });
        return;
    }
    fn(
        Gathered{
            advance(layer.real, real_dtype, g * layer.real_stride), real_dtype, layer.real_batch, layer.interleave,
            layer.length, size, first},
        Gathered{
            advance(layer.synthetic, dtype, g * layer.synthetic_stride), dtype, layer.synthetic_batch, 1, layer.length,
            size, first},
        AnyTarget{
            layer.grad ? const_cast<void*>(advance(layer.grad, dtype, g * size + first)) : nullptr, dtype,
            1.0f / static_cast<float>(layer.synthetic_batch)});
}

}  // namespace cuda
}  // namespace dream_accel
