// Runs of a stored type to and from float.
#include <type_traits>

#include "functions.h"
#include "simd.h"

namespace dream_accel {
namespace DREAM_ISA {
namespace {

DREAM_INLINE void store(float* target, vf value) { store_as(target, value); }

DREAM_INLINE void store(BFloat16* target, vf value) {
    const vu bits = (vu)value;
    const vu rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;  // to nearest, ties to even
    const vu quiet_nan = (bits >> 16) | 0x40u;                        // rounding could carry a NaN to infinity
    store_as(target, __builtin_convertvector(value == value ? rounded : quiet_nan, vh));
}

DREAM_INLINE void store(Float16* target, vf value) {
    const vu bits = (vu)value;
    const vu sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
    // Adding 1/2 to |value| < 2^-14 leaves its multiple of 2^-24, rounded to even, in the low bits of the sum.
    const vu subnormal = (vu)((vf)magnitude + 0.5f) - 0x3f000000u;
    const vu normal = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
    const vu huge = magnitude > 0x7f800000u ? vu{} + 0x7e00u : vu{} + 0x7c00u;
    const vu finite = magnitude < 0x38800000u ? subnormal : normal;
    // 65520 and more round to infinity.
    store_as(target, __builtin_convertvector((magnitude >= 0x477ff000u ? huge : finite) | sign, vh));
}

template <class T>
void to_float_typed(const T* source, int64_t n, float* target) {
    int64_t i = 0;
    for (; i + W <= n; i += W) store(target + i, load(source + i));
    if (i == n) return;
    const vf rest = load_partial(source + i, static_cast<int>(n - i));
    for (int j = 0; i + j < n; ++j) target[i + j] = rest[j];
}

template <class T>
void from_float_typed(const float* source, int64_t n, float scale, T* target) {
    int64_t i = 0;
    for (; i + W <= n; i += W) store(target + i, scale * load(source + i));
    if (i == n) return;
    T rest[W];
    store(rest, scale * load_partial(source + i, static_cast<int>(n - i)));
    for (int j = 0; i + j < n; ++j) target[i + j] = rest[j];
}

}  // namespace

void to_float(const void* source, Dtype dtype, int64_t n, float* target) {
    with_type(dtype, [&](auto* type) { to_float_typed(static_cast<decltype(type)>(source), n, target); });
}

void from_float(const float* source, int64_t n, float scale, void* target, Dtype dtype) {
    with_type(dtype, [&](auto* type) {
        using T = std::remove_const_t<std::remove_pointer_t<decltype(type)>>;
        from_float_typed(source, n, scale, static_cast<T*>(target));
    });
}

}  // namespace DREAM_ISA
}  // namespace dream_accel
