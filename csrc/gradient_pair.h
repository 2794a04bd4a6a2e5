#pragma once

#include <cstdint>

#include "metrics.h"

namespace dream_accel {

// One parameter's gradients for all classes, C-contiguous.
struct GradientPair {
    const float* real;       // IN (G, rows, length)
    const float* synthetic;  // IN (G, rows, length)
    float* grad;             // OUT (G, rows, length) or null
    int64_t rows;            // first dimension of the parameter
    int64_t length;          // the others, flattened
};

}  // namespace dream_accel
