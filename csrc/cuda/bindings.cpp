#include "../bindings.h"

#include <pybind11/stl.h>

#include "embedded.h"
#include "gradient_distance.h"
#include "kmeans.h"

namespace py = pybind11;

namespace dream_accel {
namespace {

using cuda::Queue;

// Address and dtype of x, N, D, address of the offsets, G.
using RowFields = std::array<int64_t, 6>;
// Index of the device, and the stream to launch on.
using QueueFields = std::array<int64_t, 2>;

cuda::GroupedRows make_rows(const RowFields& f) {
    return {as<void>(f[0]), static_cast<Dtype>(f[1]), f[2], f[3], as<long long>(f[4]), f[5]};
}

Queue make_queue(const QueueFields& f) { return {static_cast<int>(f[0]), as<void>(f[1])}; }

}  // namespace

void bind_cuda(py::module_& m) {
    m.def(
        "cuda_open", &cuda::open_driver, py::arg("path"),
        "Use another CUDA driver library from here on; the system's where path is empty.");
    m.def(
        "cuda_load",
        [](int device, const std::string& image) {
            py::gil_scoped_release release;
            cuda::load_kernels(device, image);
        },
        py::arg("device"), py::arg("image"), "Load an image of the kernels for a device.");
    m.def("cuda_loaded", &cuda::kernels_loaded, py::arg("device"));
    m.def(
        "cuda_image", [] { return py::bytes(cuda::embedded_image()); },
        "The image nvcc compiled; empty where the module was built without it.");
    m.def(
        "cuda_sources", &cuda::embedded_sources,
        "(name as #include gives it, text) of kernels.cu, which comes first, and of everything it includes.");
    m.def("cuda_max_clusters", &cuda::max_clusters);

    m.def("cuda_assign_workspace", &cuda::assign_workspace, py::arg("G"), py::arg("K"), py::arg("D"), "Bytes.");
    m.def(
        "cuda_kmeans_assign",
        [](const RowFields& rows, Address centroids, int64_t K, Address active, Address previous_labels,
           Address previous_distance, Address labels, Address distance, Address workspace, const QueueFields& queue) {
            py::gil_scoped_release release;
            cuda::kmeans_assign(
                make_rows(rows), as<float>(centroids), K, as<uint8_t>(active), as<int32_t>(previous_labels),
                as<float>(previous_distance), as<int32_t>(labels), as<float>(distance), as<void>(workspace),
                make_queue(queue));
        });
    m.def(
        "cuda_update_workspace", &cuda::update_workspace, py::arg("N"), py::arg("G"), py::arg("K"), py::arg("farthest"),
        "Bytes.");
    m.def(
        "cuda_kmeans_update",
        [](const RowFields& rows, Address labels, int64_t K, Address distance, Address previous, Address active,
           bool farthest, Address centroids, Address counts, Address workspace, const QueueFields& queue) {
            py::gil_scoped_release release;
            cuda::kmeans_update(
                make_rows(rows), as<int32_t>(labels), K, as<float>(distance), as<float>(previous), as<uint8_t>(active),
                farthest, as<float>(centroids), as<int32_t>(counts), as<void>(workspace), make_queue(queue));
        });
    m.def("cuda_nearest_workspace", &cuda::nearest_workspace, py::arg("N"), py::arg("G"), py::arg("K"), "Bytes.");
    m.def(
        "cuda_nearest_members", [](const RowFields& rows, Address centroids, int64_t K, Address labels, int64_t n,
                                   Address picks, Address workspace, const QueueFields& queue) {
            py::gil_scoped_release release;
            cuda::nearest_members(
                make_rows(rows), as<float>(centroids), K, as<int32_t>(labels), n, as<int64_t>(picks),
                as<void>(workspace), make_queue(queue));
        });

    m.def(
        "cuda_gradient_workspace",
        [](const std::vector<PairFields>& table, int64_t G, int metric) {
            return cuda::gradient_workspace(make_pairs(table), G, static_cast<Metric>(metric));
        },
        "Bytes.");
    m.def(
        "cuda_gradient_distance", [](const std::vector<PairFields>& table, int64_t G, int metric, Address distance,
                                     Address per_layer, Address tickets, Address workspace, const QueueFields& queue) {
            py::gil_scoped_release release;
            cuda::gradient_distance(
                make_pairs(table), G, static_cast<Metric>(metric), as<float>(distance), as<float>(per_layer),
                as<unsigned>(tickets), as<void>(workspace), make_queue(queue));
        });
    m.def(
        "cuda_scale_gradients",
        [](const std::vector<ScaledFields>& table, int64_t G, Address scale, const QueueFields& queue) {
            py::gil_scoped_release release;
            cuda::scale_gradients(make_scaled(table), G, as<float>(scale), make_queue(queue));
        });
}

}  // namespace dream_accel
