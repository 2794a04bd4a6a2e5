// Conversion of addresses and tables of integers to pointers and structs, for the bindings of the CPU and the CUDA
// operators.
#pragma once

#include <pybind11/pybind11.h>

#include <array>
#include <cstdint>
#include <vector>

#include "gradient_pair.h"

namespace dream_accel {

using Address = uintptr_t;

template <class T>
T* as(Address address) {
    return reinterpret_cast<T*>(address);
}

// The fields of GradientPair and of ScaledGradient, in their order.
using PairFields = std::array<int64_t, 12>;
using ScaledFields = std::array<int64_t, 5>;

inline std::vector<GradientPair> make_pairs(const std::vector<PairFields>& table) {
    std::vector<GradientPair> pairs;
    for (const PairFields& f : table) {
        pairs.push_back(
            {as<void>(f[0]), as<void>(f[1]), as<void>(f[2]), f[3], f[4], f[5], f[6], f[7], f[8], f[9],
             static_cast<Dtype>(f[10]), static_cast<Dtype>(f[11])});
    }
    return pairs;
}

inline std::vector<ScaledGradient> make_scaled(const std::vector<ScaledFields>& table) {
    std::vector<ScaledGradient> gradients;
    for (const ScaledFields& f : table) {
        gradients.push_back({as<void>(f[0]), as<void>(f[1]), f[2], f[3], static_cast<Dtype>(f[4])});
    }
    return gradients;
}

// csrc/cuda/bindings.cpp: adds the functions whose names begin with cuda_.
void bind_cuda(pybind11::module_& m);

}  // namespace dream_accel
