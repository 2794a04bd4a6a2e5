#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "dtype.h"
#include "metrics.h"

namespace dream_accel {

// The real and the synthetic tensor of one layer, for G classes of rows x length elements each.
//
// A tensor may hold the features of several images for every class, one image after another. Then the means over the
// images are compared, and the derivative is that in each image of the synthetic batch. Gradients are batches of one.
struct GradientPair {
    const void* real;          // IN  (G, real_batch, rows, length) of real_dtype
    const void* synthetic;     // IN  (G, synthetic_batch, rows, length) of synthetic_dtype
    void* grad;                // OUT (G, rows, length) of synthetic_dtype, laid out like synthetic, or null
    int64_t rows;              // first dimension of the parameter
    int64_t length;            // the others, flattened
    int64_t real_stride;       // elements from one class to the next; may be 0
    int64_t synthetic_stride;  // likewise
    int64_t real_batch;        // images whose mean is compared
    int64_t synthetic_batch;   // likewise
    // Element i of a row of synthetic pairs with element real_index(i) of real: one side may be stored channels first
    // and the other channels last. 1 where both are stored alike.
    int64_t interleave;
    Dtype real_dtype;
    Dtype synthetic_dtype;

    int64_t size() const { return rows * length; }
    int64_t real_index(int64_t i) const { return i % interleave * (length / interleave) + i / interleave; }
};

// Whether derivatives are asked for. One without elements has no address either.
inline bool has_derivatives(const std::vector<GradientPair>& pairs) {
    return std::any_of(pairs.begin(), pairs.end(), [](const GradientPair& pair) { return pair.grad != nullptr; });
}

// One derivative to be multiplied by a number per class.
struct ScaledGradient {
    const void* gradient;  // IN  (G, size) of dtype
    void* scaled;          // OUT (G, size) of dtype
    int64_t size;
    int64_t stride;  // elements from one class of gradient to the next
    Dtype dtype;
};

}  // namespace dream_accel
