// Launches of the device code through CUDA's driver library, which is opened when first needed. No host code is
// compiled by nvcc or linked with CUDA, so one module serves machines with and without a GPU.
//
// The device code comes as an image: the fat binary nvcc made at build time, or what NVRTC made at first use.
#pragma once

#include <cstdint>
#include <string>

#include "arguments.h"

namespace dream_accel {
namespace cuda {

// A device, by its index, and a CUstream of it, where kernels are launched.
struct Queue {
    int device;
    void* stream;
};

// Uses another driver library from here on, and forgets what was loaded through the last one. The library PyTorch uses,
// libcuda.so.1, where path is empty.
void open_driver(const std::string& path);

// Loads an image's kernels for a device. Throws std::runtime_error with CUDA's message where it cannot. Must not run
// while a stream of this thread is captured.
void load_kernels(int device, const std::string& image);

bool kernels_loaded(int device);

// Whether the image loaded for a device has the kernels with more than 4 KB of arguments: CUDA 12.1 brought them.
bool has_large_kernels(int device);

enum class KernelId : int {
#define DREAM_KERNEL(name, Arguments, threads, blocks, function) name,
#define DREAM_LARGE_KERNEL DREAM_KERNEL
#include "kernels.inc"
#undef DREAM_LARGE_KERNEL
#undef DREAM_KERNEL
};

namespace kernel {
#define DREAM_KERNEL(name, Args, most_threads, blocks, function) \
    struct name {                                                \
        using Arguments = Args;                                  \
        static constexpr KernelId id = KernelId::name;           \
        static constexpr unsigned threads = most_threads;        \
    };
#define DREAM_LARGE_KERNEL DREAM_KERNEL
#include "kernels.inc"
#undef DREAM_LARGE_KERNEL
#undef DREAM_KERNEL
}  // namespace kernel

void launch_kernel(
    const Queue& queue, KernelId kernel, int64_t grid, unsigned threads, unsigned shared, const void* arguments);

// Launches grid blocks of a kernel, nothing where grid is 0. shared is in bytes, on top of what the kernel declares.
template <class Kernel>
void launch(
    const Queue& queue, int64_t grid, const typename Kernel::Arguments& arguments, unsigned threads = Kernel::threads,
    unsigned shared = 0) {
    launch_kernel(queue, Kernel::id, grid, threads, shared, &arguments);
}

}  // namespace cuda
}  // namespace dream_accel
