// Choice of the instruction set that the kernels use.
#include <atomic>
#include <cstring>

#ifdef DREAM_AMX
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "isa/kernels.h"

namespace dream_accel {

namespace baseline {
extern const Kernels table;
void multiply_tile(const AssignTile& tile, float* out, int64_t stride);
}  // namespace baseline
#ifdef DREAM_X86_ISAS
namespace avx2 {
extern const Kernels table;
void multiply_tile(const AssignTile& tile, float* out, int64_t stride);
}  // namespace avx2
namespace avx2_int16 {
extern const Kernels table;
extern const BoundedKernels bounded;
}  // namespace avx2_int16
namespace avx512 {
extern const Kernels table;
void multiply_tile(const AssignTile& tile, float* out, int64_t stride);
}  // namespace avx512
#endif
#ifdef DREAM_AMX
namespace amx {
extern const Kernels table;
}
#endif

namespace {

#ifdef DREAM_AMX
// Matrix tiles must be requested from the system: their registers enlarge the state that it saves for every thread.
bool has_amx() {
    constexpr int ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18;
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
    const bool has_tiles = (d >> 24 & 1) && (d >> 22 & 1);                                      // AMX-TILE, AMX-BF16
    if (!has_tiles || !__get_cpuid_count(7, 1, &a, &b, &c, &d) || !(a >> 5 & 1)) return false;  // AVX512-BF16
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}
#endif

struct Available {
    const Kernels* tables[5] = {&baseline::table};
    const char* names[6] = {baseline::table.name};
    int n = 1;

    Available() {
#ifdef DREAM_X86_ISAS
        __builtin_cpu_init();
        const bool has_avx2 =
            __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
        const bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                                __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
        if (has_avx2) add(avx2::table);
        if (has_avx2) add(avx2_int16::table);
        if (has_avx512) add(avx512::table);
#ifdef DREAM_AMX
        if (has_avx512 && has_amx()) add(amx::table);
#endif
#endif
    }

    void add(const Kernels& table) {
        tables[n] = &table;
        names[n++] = table.name;
    }
};

const Available& available() {
    static const Available found;
    return found;
}

std::atomic<const Kernels*> forced{nullptr};

}  // namespace

const Kernels& kernels() {
    const Kernels* chosen = forced.load(std::memory_order_relaxed);
    return chosen ? *chosen : *available().tables[available().n - 1];
}

const Kernels& kernels_for_assign(int64_t K, int64_t D) {
    const Kernels& chosen = kernels();
    // Below these sizes converting costs more than it saves.
    const bool small = K < 16 || D < 64;
#ifdef DREAM_X86_ISAS
    if (&chosen == &avx2_int16::table && small) return avx2::table;
#endif
#ifdef DREAM_AMX
    if (&chosen == &amx::table && small) return avx512::table;
#endif
    static_cast<void>(small);
    return chosen;
}

const BoundedKernels* bounded_kernels(int64_t K, int64_t D) {
#ifdef DREAM_X86_ISAS
    if (&kernels_for_assign(K, D) == &avx2_int16::table) return &avx2_int16::bounded;
#endif
    static_cast<void>(K);
    static_cast<void>(D);
    return nullptr;
}

FloatProducts float_products() {
#ifdef DREAM_X86_ISAS
    // Assignments too small to convert are made in float.
    const Kernels& table = kernels_for_assign(1, 1);
    if (&table == &avx512::table) return {table, avx512::multiply_tile};
    if (&table == &avx2::table) return {table, avx2::multiply_tile};
#endif
    return {baseline::table, baseline::multiply_tile};
}

const char* const* available_isas() { return available().names; }

bool force_isa(const char* name) {
    if (!*name) {
        forced.store(nullptr);
        return true;
    }
    for (int i = 0; i < available().n; ++i) {
        if (!std::strcmp(available().names[i], name)) {
            forced.store(available().tables[i]);
            return true;
        }
    }
    return false;
}

}  // namespace dream_accel
