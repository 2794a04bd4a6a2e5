#include "embedded.h"

// Puts a file into the module, between the symbols dream_NAME_begin and dream_NAME_end.
#define EMBED(name, path)                                                                              \
    asm(".pushsection .rodata\n.balign 16\ndream_" #name "_begin:\n.incbin \"" path "\"\ndream_" #name \
        "_end:\n.byte 0\n.popsection\n");                                                              \
    extern "C" const char dream_##name##_begin[], dream_##name##_end[];

#define DREAM_SOURCES(SOURCE)                          \
    SOURCE(kernels_cu, "kernels.cu")                   \
    SOURCE(kernels_inc, "kernels.inc")                 \
    SOURCE(device, "device.cuh")                       \
    SOURCE(distance_arguments, "distance_arguments.h") \
    SOURCE(distance_sums, "distance_sums.cuh")         \
    SOURCE(gradient_distance, "gradient_distance.cuh") \
    SOURCE(kmeans_arguments, "kmeans_arguments.h")     \
    SOURCE(kmeans_assign, "kmeans_assign.cuh")         \
    SOURCE(kmeans_members, "kmeans_members.cuh")       \
    SOURCE(kmeans_update, "kmeans_update.cuh")         \
    SOURCE(layer_reader, "layer_reader.cuh")           \
    SOURCE(nearest_members, "nearest_members.cuh")     \
    SOURCE(row_distance, "row_distance.cuh")           \
    SOURCE(select, "select.cuh")                       \
    SOURCE(dtype, "../dtype.h")                        \
    SOURCE(metrics, "../metrics.h")

#define EMBED_SOURCE(name, path) EMBED(name, DREAM_CUDA_SOURCES "/" path)
DREAM_SOURCES(EMBED_SOURCE)
#if defined(DREAM_CUDA_IMAGE)
EMBED(image, DREAM_CUDA_IMAGE)
#endif

namespace dream_accel {
namespace cuda {

std::string embedded_image() {
#if defined(DREAM_CUDA_IMAGE)
    return std::string(dream_image_begin, dream_image_end);
#else
    return "";
#endif
}

std::vector<std::pair<std::string, std::string>> embedded_sources() {
#define TEXT(name, path) {path, std::string(dream_##name##_begin, dream_##name##_end)},
    return {DREAM_SOURCES(TEXT)};
#undef TEXT
}

}  // namespace cuda
}  // namespace dream_accel
