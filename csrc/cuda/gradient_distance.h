// The distances on a CUDA device.
#pragma once

#include <cstdint>
#include <vector>

#include "../gradient_pair.h"
#include "driver.h"

namespace dream_accel {
namespace cuda {

// Bytes of device memory that gradient_distance needs beside its arguments.
int64_t gradient_workspace(const std::vector<GradientPair>& pairs, int64_t G, Metric metric);

// As dream_accel::gradient_distance, with pointers to device memory: one launch for up to 448 tensors and all classes,
// two for global_cos with its derivative. Only launches: no copy, no synchronisation, so a CUDA graph can capture it.
void gradient_distance(
    const std::vector<GradientPair>& pairs, int64_t G, Metric metric,
    float* distance,    // OUT (G,)
    float* per_layer,   // OUT (G, number of pairs), or (G, 1) for the global metrics
    unsigned* tickets,  // (G,) zero, and zero again afterwards
    void* workspace, const Queue& queue);

// As dream_accel::scale_gradients, likewise.
void scale_gradients(
    const std::vector<ScaledGradient>& gradients, int64_t G,
    const float* scale,  // IN (G, number of gradients)
    const Queue& queue);

}  // namespace cuda
}  // namespace dream_accel
