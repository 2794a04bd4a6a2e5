// Python bindings of the compiled kernels: pointers and streams are integers, the caller keeps the memory alive.
#include "bindings.h"

#include <pybind11/stl.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/isa/kernels.h"
#include "cpu/operators.h"

namespace py = pybind11;
using namespace dream_accel;

namespace {

Rows make_rows(Address x, int dtype, int64_t N, int64_t D, Address offsets, int64_t G) {
    return {as<void>(x), static_cast<Dtype>(dtype), N, D, as<int64_t>(offsets), G};
}

FeatureMaps make_maps(Address y, const std::array<int64_t, 4>& sizes, Address weight, Address bias) {
    return {as<float>(y), sizes[0], sizes[1], sizes[2], sizes[3], as<float>(weight), as<float>(bias)};
}

std::vector<std::string> isa_names() {
    std::vector<std::string> names;
    for (const char* const* name = available_isas(); *name; ++name) names.push_back(*name);
    return names;
}

py::dict build_info() {
    py::dict info;
    info["compiler"] = DREAM_COMPILER;
    info["nvcc"] = DREAM_NVCC_VERSION;
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
                nullptr, as<uint8_t>(active), farthest, as<float>(centroids), as<int32_t>(counts), n_threads);
        });
    m.def(
        "kmeans_iterate", [](Address x, int dtype, int64_t N, int64_t D, Address offsets, int64_t G, Address start,
                             int64_t K, int64_t max_iter, Address tolerance, bool farthest, Address labels,
                             Address centroids, Address n_iter, int n_threads) {
            py::gil_scoped_release release;
            kmeans_iterate(
                make_rows(x, dtype, N, D, offsets, G), as<float>(start), K, max_iter, as<float>(tolerance), farthest,
                as<int32_t>(labels), as<float>(centroids), as<int32_t>(n_iter), n_threads);
        });
    m.def(
        "group_products", [](Address a, int dtype, int64_t R, int64_t D, Address a_offsets, Address x, int64_t N,
                             Address offsets, int64_t G, Address centre, int64_t width, Address out, int n_threads) {
            py::gil_scoped_release release;
            const int float32 = static_cast<int>(Dtype::float32);
            group_products(
                make_rows(a, dtype, R, D, a_offsets, G), make_rows(x, float32, N, D, offsets, G), as<float>(centre),
                width, as<float>(out), n_threads);
        });
    m.def(
        "gram_assign", [](Address offsets, int64_t G, Address products, Address norms, int64_t K, int64_t width,
                          Address active, Address previous_labels, Address labels, int n_threads) {
            py::gil_scoped_release release;
            gram_assign(
                as<int64_t>(offsets), G, as<float>(products), as<float>(norms), K, width, as<uint8_t>(active),
                as<int32_t>(previous_labels), as<int32_t>(labels), n_threads);
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
        "gradient_distance", [](const std::vector<PairFields>& table, int64_t G, int metric, Address distance,
                                Address per_layer, int n_threads) {
            py::gil_scoped_release release;
            gradient_distance(
                make_pairs(table), G, static_cast<Metric>(metric), as<float>(distance), as<float>(per_layer),
                n_threads);
        });
    m.def("scale_gradients", [](const std::vector<ScaledFields>& table, int64_t G, Address scale, int n_threads) {
        py::gil_scoped_release release;
        scale_gradients(make_scaled(table), G, as<float>(scale), n_threads);
    });

    using Sizes = std::array<int64_t, 4>;  // images, channels, height, width
    m.def(
        "norm_relu_pool", [](Address y, const Sizes& sizes, Address weight, Address bias, float eps, Address pooled,
                             Address mean, Address rstd, int n_threads) {
            py::gil_scoped_release release;
            norm_relu_pool(
                make_maps(y, sizes, weight, bias), eps, as<float>(pooled), as<float>(mean), as<float>(rstd), n_threads);
        });
    m.def(
        "norm_relu_pool_backward", [](Address y, const Sizes& sizes, Address weight, Address bias, Address mean,
                                      Address rstd, Address of_pooled, Address of_y, int n_threads) {
            py::gil_scoped_release release;
            norm_relu_pool_backward(
                make_maps(y, sizes, weight, bias), as<float>(mean), as<float>(rstd), as<float>(of_pooled),
                as<float>(of_y), n_threads);
        });
    m.def(
        "norm_relu_pool_double_backward",
        [](Address y, const Sizes& sizes, Address weight, Address bias, Address mean, Address rstd, Address of_pooled,
           Address of_of_y, Address of_of_pooled, Address of_y, int n_threads) {
            py::gil_scoped_release release;
            norm_relu_pool_double_backward(
                make_maps(y, sizes, weight, bias), as<float>(mean), as<float>(rstd), as<float>(of_pooled),
                as<float>(of_of_y), as<float>(of_of_pooled), as<float>(of_y), n_threads);
        });

#ifdef DREAM_CUDA
    bind_cuda(m);
#endif
}
