// Python's view of the compiled kernels: pointers and streams are integers, the caller keeps the memory alive.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/isa/kernels.h"
#include "cpu/operators.h"
#include "cuda/gradient_distance.h"

namespace py = pybind11;
using namespace dream_accel;

namespace {

using Address = uintptr_t;

template <class T>
T* as(Address address) {
    return reinterpret_cast<T*>(address);
}

Rows make_rows(Address x, int dtype, int64_t N, int64_t D, Address offsets, int64_t G) {
    return {as<void>(x), static_cast<Dtype>(dtype), N, D, as<int64_t>(offsets), G};
}

std::vector<GradientPair> make_pairs(
    const std::vector<Address>& real, const std::vector<Address>& synthetic, const std::vector<Address>& grads,
    const std::vector<int64_t>& rows, const std::vector<int64_t>& lengths) {
    const size_t n = real.size();
    if (synthetic.size() != n || rows.size() != n || lengths.size() != n || (!grads.empty() && grads.size() != n)) {
        throw std::invalid_argument("the lists describing the gradients differ in length");
    }
    std::vector<GradientPair> pairs;
    for (size_t i = 0; i < n; ++i) {
        float* grad = grads.empty() ? nullptr : as<float>(grads[i]);
        pairs.push_back({as<float>(real[i]), as<float>(synthetic[i]), grad, rows[i], lengths[i]});
    }
    return pairs;
}

std::vector<std::string> isa_names() {
    std::vector<std::string> names;
    for (const char* const* name = available_isas(); *name; ++name) names.push_back(*name);
    return names;
}

py::dict build_info() {
    py::dict info;
    info["compiler"] = DREAM_COMPILER;
    info["nvcc"] = DREAM_NVCC;
    info["cuda_archs"] = DREAM_CUDA_ARCHS;
#ifdef DREAM_CUDA
    info["cuda"] = true;
#else
    info["cuda"] = false;
#endif
    return info;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
    m.doc() = "Compiled kernels of dream_accel. dtype: 0 float32, 1 float16, 2 bfloat16; an address of 0 means absent.";
    m.def("build_info", build_info);
    m.def("isas", isa_names, "Instruction sets compiled in and supported here, slowest first.");
    m.def("isa", [] { return std::string(kernels().name); }, "The instruction set in use.");
    m.def(
        "force_isa",
        [](const std::string& name) {
            if (!force_isa(name.c_str()))
                throw std::invalid_argument("instruction set '" + name + "' is not available here");
        },
        py::arg("name"), "Use one instruction set; the best again where name is empty.");

    m.def(
        "kmeans_assign", [](Address x, int dtype, int64_t N, int64_t D, Address offsets, int64_t G, Address centroids,
                            int64_t K, Address active, Address previous_labels, Address previous_distance,
                            Address labels, Address distance, int n_threads) {
            py::gil_scoped_release release;
            kmeans_assign(
                make_rows(x, dtype, N, D, offsets, G), as<float>(centroids), K, as<uint8_t>(active),
                as<int32_t>(previous_labels), as<float>(previous_distance), as<int32_t>(labels), as<float>(distance),
                n_threads);
        });
    m.def(
        "kmeans_update", [](Address x, int dtype, int64_t N, int64_t D, Address offsets, int64_t G, Address labels,
                            int64_t K, Address distance, Address previous, Address active, bool farthest,
                            Address centroids, Address counts, int n_threads) {
            py::gil_scoped_release release;
            kmeans_update(
                make_rows(x, dtype, N, D, offsets, G), as<int32_t>(labels), K, as<float>(distance), as<float>(previous),
                as<uint8_t>(active), farthest, as<float>(centroids), as<int32_t>(counts), n_threads);
        });
    m.def(
        "nearest_members", [](Address x, int dtype, int64_t N, int64_t D, Address offsets, int64_t G, Address centroids,
                              int64_t K, Address labels, int64_t n, Address picks, int n_threads) {
            py::gil_scoped_release release;
            nearest_members(
                make_rows(x, dtype, N, D, offsets, G), as<float>(centroids), K, as<int32_t>(labels), n,
                as<int64_t>(picks), n_threads);
        });
    m.def(
        "gradient_distance",
        [](const std::vector<Address>& real, const std::vector<Address>& synthetic, const std::vector<Address>& grads,
           const std::vector<int64_t>& rows, const std::vector<int64_t>& lengths, int64_t G, int metric,
           Address distance, int n_threads) {
            const std::vector<GradientPair> pairs = make_pairs(real, synthetic, grads, rows, lengths);
            py::gil_scoped_release release;
            gradient_distance(pairs, G, static_cast<Metric>(metric), as<float>(distance), n_threads);
        });

#ifdef DREAM_CUDA
    // The last arguments of the CUDA functions are the device's index and the stream to launch on.
    m.def(
        "cuda_gradient_workspace",
        [](const std::vector<int64_t>& rows, const std::vector<int64_t>& lengths, int64_t G, int metric) {
            const std::vector<Address> absent(rows.size());
            return cuda::gradient_workspace(
                make_pairs(absent, absent, {}, rows, lengths), G, static_cast<Metric>(metric));
        },
        "Float64 elements of device memory that cuda_gradient_distance needs as workspace.");
    m.def(
        "cuda_gradient_distance",
        [](const std::vector<Address>& real, const std::vector<Address>& synthetic, const std::vector<Address>& grads,
           const std::vector<int64_t>& rows, const std::vector<int64_t>& lengths, int64_t G, int metric,
           Address distance, Address workspace, int device, Address stream) {
            const std::vector<GradientPair> pairs = make_pairs(real, synthetic, grads, rows, lengths);
            py::gil_scoped_release release;
            cuda::gradient_distance(
                pairs, G, static_cast<Metric>(metric), as<float>(distance), as<double>(workspace), device,
                as<void>(stream));
        });
#endif
}
