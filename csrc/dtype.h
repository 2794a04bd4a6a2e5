// Types a tensor may be stored in. Needs no other header, so a run-time compiler can take it as it is.
#pragma once

namespace dream_accel {

enum class Dtype : int { float32 = 0, float16 = 1, bfloat16 = 2 };

struct Float16 {
    unsigned short bits;
};
struct BFloat16 {
    unsigned short bits;
};

}  // namespace dream_accel
