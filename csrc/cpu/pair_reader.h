// Reading runs of a gradient pair as floats, however they are stored.
#pragma once

#include <cstdint>
#include <vector>

#include "../gradient_pair.h"
#include "buffer.h"

namespace dream_accel {

// Elements [first, first + n) of one class of a pair, n <= MAX, available at x and y until the next call of open. The
// caller writes the derivative to grad, and close stores it in the tensor. Floats stored in order are used in place;
// others are copied to buffers of the reader, so one thread should use one reader for many runs.
class PairReader {
public:
    static constexpr int64_t MAX = 8192;

    void open(const GradientPair& pair, int64_t g, int64_t first, int64_t n, bool with_grad);
    void close();

    const float *x, *y;
    float* grad;  // null where no derivative is wanted

private:
    using Scratch = Buffer<float>;

    const float* run(const void* of_class, Dtype dtype, int64_t batch, Scratch& scratch);
    const float* mean(const void* of_class, Dtype dtype, int64_t batch, Scratch& scratch);
    const float* gather(const void* of_class);

    const GradientPair* pair_;
    int64_t first_, n_;
    char* target_;  // where grad goes, null where it is there already
    Scratch x_, y_, grad_, gathered_;
    std::vector<int32_t> images_;
};

}  // namespace dream_accel
