// The gradient distance on a CUDA device.
#pragma once

#include <cstdint>
#include <vector>

#include "../gradient_pair.h"

namespace dream_accel {
namespace cuda {

// Doubles of device memory that gradient_distance needs beside its arguments.
int64_t gradient_workspace(const std::vector<GradientPair>& pairs, int64_t G, Metric metric);

// As dream_accel::gradient_distance but for the sum over layers, with pointers to device memory: float32 that
// lies in order, batches of one. Only launches: no copy, no synchronisation, so a
// CUDA graph can capture it. Throws std::runtime_error with CUDA's message where a launch fails.
void gradient_distance(
    const std::vector<GradientPair>& pairs, int64_t G, Metric metric,
    float* per_layer,   // OUT (G, number of pairs), or (G, 1) for the global metrics
    double* workspace,  // scratch
    int device,
    void* stream);  // cudaStream_t

}  // namespace cuda
}  // namespace dream_accel
