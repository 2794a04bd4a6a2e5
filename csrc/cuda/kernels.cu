// All device code as one unit: nvcc compiles it to a fat binary, NVRTC at first use where there was no nvcc.
#include "gradient_distance.cuh"
#include "kmeans_assign.cuh"
#include "kmeans_members.cuh"
#include "kmeans_update.cuh"
#include "nearest_members.cuh"

// The limit on threads keeps a block launchable; the blocks per SM are what the registers must leave room for.
#define DREAM_KERNEL(name, Arguments, threads, blocks, function)                       \
    extern "C" __global__ void __launch_bounds__(dream_accel::cuda::threads, blocks)   \
        dream_##name(const __grid_constant__ dream_accel::cuda::Arguments arguments) { \
        dream_accel::cuda::function(arguments);                                        \
    }
#if defined(DREAM_EMULATION) || __CUDACC_VER_MAJOR__ > 12 || (__CUDACC_VER_MAJOR__ == 12 && __CUDACC_VER_MINOR__ >= 1)
#define DREAM_LARGE_KERNEL DREAM_KERNEL
#else
#define DREAM_LARGE_KERNEL(name, Arguments, threads, blocks, function)
#endif
#include "kernels.inc"
#undef DREAM_LARGE_KERNEL
#undef DREAM_KERNEL
