// Common types of the portable part of the CPU kernels and the part compiled per instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../dtype.h"

namespace dream_accel {

static inline int64_t size_of(Dtype dtype) { return dtype == Dtype::float32 ? 4 : 2; }

// Calls fn with a null pointer whose type is the stored type of dtype.
template <class Fn>
inline auto with_type(Dtype dtype, Fn&& fn) {
    switch (dtype) {
        case Dtype::float16:
            return fn(static_cast<const Float16*>(nullptr));
        case Dtype::bfloat16:
            return fn(static_cast<const BFloat16*>(nullptr));
        default:
            return fn(static_cast<const float*>(nullptr));
    }
}

}  // namespace dream_accel
