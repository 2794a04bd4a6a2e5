// A CUDA driver without a device: the calls csrc/cuda/driver.cpp makes, over the device code compiled for the CPU.
//
// The threads of a block are fibers of one thread of the host. A fiber runs until it waits for others, so every order
// in which blocks and threads are taken is one a GPU could take; `emulate` chooses it. Results that depend on the order
// mean a missing synchronisation. What a GPU refuses or hangs on stops a launch with an error: too many threads, too
// much shared memory, threads of a block that wait at different barriers, or for threads that have returned.
#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "language.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

#include "../../csrc/cuda/kernels.cu"

namespace emulation {
namespace {

constexpr int WARP = 32;
constexpr size_t STACK = (64 << 10) + 5 * 64;  // not a power of two: the tops of the stacks would share cache lines
constexpr unsigned MAX_SHARED = 48 << 10;

enum class Order : int { forward = 0, backward = 1, shuffled = 2 };

enum class Waits { no, block, warp, returned };

// A place in the code to come back to. Entered through ucontext, left and resumed by jumps, which ask nothing of the
// system; the address sanitizer follows ucontext alone.
struct Context {
    ucontext_t entry;
    jmp_buf here;
    bool entered;
};

struct Fiber {
    Context context;
    unsigned thread;
    Waits waits;
    const char* file;  // where it waits
    int line;
    uint64_t given;        // to the exchange of its warp
    uint64_t taken[WARP];  // from it
};

using Body = void (*)(const void*);

struct Launch {
    Body body;
    const void* arguments;
};

Order order = Order::forward;
unsigned seed = 0;
long long n_launches = 0;
long long n_waits = 0;
std::string failure;

std::vector<Fiber> fibers;
std::unique_ptr<char[]> stacks;
std::vector<unsigned char> shared_memory;
Context scheduler;
Fiber* running = nullptr;
Launch current;

__attribute__((noinline)) void change(Context& from, Context& to) {
#if defined(__SANITIZE_ADDRESS__)
    swapcontext(&from.entry, &to.entry);
#else
    if (_setjmp(from.here) != 0) return;
    if (to.entered) _longjmp(to.here, 1);
    to.entered = true;
    setcontext(&to.entry);
#endif
}

// A fiber serves one block after another.
void run_fiber() {
    for (;;) {
        current.body(current.arguments);
        running->waits = Waits::returned;
        change(running->context, scheduler);
    }
}

void wait(Waits what) {
    ++n_waits;
    running->waits = what;
    change(running->context, scheduler);
}

void start(Fiber& fiber, unsigned thread) {
    fiber.thread = thread;
    ucontext_t& entry = fiber.context.entry;
    getcontext(&entry);
    entry.uc_stack.ss_sp = stacks.get() + thread * STACK;
    entry.uc_stack.ss_size = STACK;
    entry.uc_link = nullptr;
    makecontext(&entry, run_fiber, 0);
    fiber.context.entered = false;
}

template <class T>
std::vector<T> in_order(T n, unsigned salt) {
    std::vector<T> sequence(n);
    std::iota(sequence.begin(), sequence.end(), T(0));
    if (order == Order::backward) std::reverse(sequence.begin(), sequence.end());
    if (order == Order::shuffled) std::shuffle(sequence.begin(), sequence.end(), std::mt19937(seed + salt));
    return sequence;
}

// Lets the lanes of a warp go on that have all exchanged values.
bool release_warp(size_t first) {
    for (size_t i = first; i < first + WARP; ++i) {
        if (fibers[i].waits != Waits::warp) return false;
    }
    for (size_t i = first; i < first + WARP; ++i) {
        for (int lane = 0; lane < WARP; ++lane) fibers[i].taken[lane] = fibers[first + lane].given;
        fibers[i].waits = Waits::no;
    }
    return true;
}

bool release_block() {
    const Fiber* waiting = nullptr;
    for (const Fiber& fiber : fibers) {
        if (fiber.waits == Waits::returned) continue;
        if (fiber.waits != Waits::block) return false;
        if (waiting && (fiber.line != waiting->line || std::strcmp(fiber.file, waiting->file) != 0)) {
            failure = "threads of a block wait at different barriers: " + std::string(fiber.file) + " lines " +
                      std::to_string(fiber.line) + " and " + std::to_string(waiting->line);
            return false;
        }
        waiting = &fiber;
    }
    if (!waiting) return false;
    for (Fiber& fiber : fibers) {
        if (fiber.waits == Waits::block) fiber.waits = Waits::no;
    }
    return true;
}

void run_block(const std::vector<unsigned>& warps) {
    std::fill(shared_memory.begin(), shared_memory.end(), static_cast<unsigned char>(0xff));
    for (Fiber& fiber : fibers) fiber.waits = Waits::no;
    for (;;) {
        bool progress = false;
        for (unsigned w : warps) {
            bool ran;
            do {
                ran = false;
                for (unsigned lane = 0; lane < WARP; ++lane) {
                    Fiber& fiber = fibers[w * WARP + (order == Order::backward ? WARP - 1 - lane : lane)];
                    if (fiber.waits != Waits::no) continue;
                    running = &fiber;
                    threadIdx = {fiber.thread, 0, 0};
                    change(scheduler, fiber.context);
                    ran = true;
                    if (!failure.empty()) return;
                }
                progress = progress || ran;
            } while (release_warp(w * WARP) || ran);
        }
        if (release_block()) continue;
        if (!failure.empty()) return;
        const auto returned = [](const Fiber& fiber) { return fiber.waits == Waits::returned; };
        if (std::all_of(fibers.begin(), fibers.end(), returned)) return;
        if (!progress) {
            failure = "threads wait for others that have returned or wait elsewhere";
            return;
        }
    }
}

int run_grid(const Launch& launch, unsigned grid, unsigned threads, unsigned shared) {
    scheduler.entered = true;
    current = launch;
    blockDim = {threads, 1, 1};
    gridDim = {grid, 1, 1};
    if (fibers.size() != threads) {
        fibers = std::vector<Fiber>(threads);
        stacks = std::make_unique<char[]>(threads * STACK);
        for (unsigned i = 0; i < threads; ++i) start(fibers[i], i);
    }
    shared_memory = std::vector<unsigned char>(shared);
    const std::vector<unsigned> warps = in_order(threads / WARP, 1);
    for (unsigned block : in_order(grid, 2)) {
        blockIdx = {block, 0, 0};
        run_block(warps);
        if (failure.empty()) continue;
        fibers.clear();  // some stand in the middle of the kernel
        return 1;
    }
    return 0;
}

struct Kernel {
    const char* name;
    Body body;
    unsigned most_threads;
};

const Kernel KERNELS[] = {
#define DREAM_KERNEL(name, Arguments, threads, blocks, function)                                                \
    {"dream_" #name,                                                                                            \
     [](const void* arguments) { dream_##name(*static_cast<const dream_accel::cuda::Arguments*>(arguments)); }, \
     dream_accel::cuda::threads},
#define DREAM_LARGE_KERNEL DREAM_KERNEL
#include "../../csrc/cuda/kernels.inc"
#undef DREAM_LARGE_KERNEL
#undef DREAM_KERNEL
};

// Kernels with the mistakes the emulation is there to find.
void different_barriers(const void*) {
    if (threadIdx.x < WARP) {
        __syncthreads();
    } else {
        __syncthreads();
    }
}

void missing_lane(const void*) {
    if (threadIdx.x != 3) __syncwarp();
}

void missing_barrier(const void* written) {
    __shared__ int shared;
    shared = static_cast<int>(threadIdx.x);
    if (threadIdx.x == 0) **static_cast<int* const*>(written) = shared;
    __syncthreads();
    if (threadIdx.x == 1) **static_cast<int* const*>(written) = shared;
}

const Body MISTAKES[] = {different_barriers, missing_lane, missing_barrier};

}  // namespace

void sync_block(const char* file, int line) {
    running->file = file;
    running->line = line;
    wait(Waits::block);
}

void exchange(unsigned mask, uint64_t value, uint64_t* all) {
    if (mask != 0xffffffffu) failure = "the emulation knows exchanges of whole warps alone";
    running->given = value;
    wait(Waits::warp);
    std::memcpy(all, running->taken, sizeof(running->taken));
}

unsigned char* dynamic_shared() { return shared_memory.data(); }

}  // namespace emulation

using namespace emulation;

extern "C" {

// Not CUDA's: how the launches to come take their blocks and warps.
void emulate(int new_order, unsigned new_seed) {
    order = static_cast<Order>(new_order);
    seed = new_seed;
}

long long emulated_launches() { return n_launches; }

long long emulated_waits() { return n_waits; }

// Runs one of MISTAKES in a block of two warps; what stopped it, or nothing.
const char* emulate_mistake(int which, int* written) {
    static std::string message;
    failure.clear();
    run_grid({MISTAKES[which], &written}, 1, 2 * WARP, 0);
    message = failure;
    return message.c_str();
}

int cuInit(unsigned) { return 0; }
int cuDeviceGet(int* device, int ordinal) {
    *device = ordinal;
    return 0;
}
int cuDevicePrimaryCtxRetain(void** context, int) {
    *context = &scheduler;
    return 0;
}
int cuCtxPushCurrent_v2(void*) { return 0; }
int cuCtxPopCurrent_v2(void**) { return 0; }

int cuGetErrorString(int, const char** message) {
    static std::string last;
    last = failure;
    failure.clear();
    *message = last.c_str();
    return 0;
}

int cuModuleLoadData(void** module, const void*) {
    *module = nullptr;
    return 0;
}

int cuModuleGetFunction(void** function, void*, const char* name) {
    for (const Kernel& kernel : KERNELS) {
        if (std::strcmp(kernel.name, name) == 0) {
            *function = const_cast<Kernel*>(&kernel);
            return 0;
        }
    }
    failure = "no such kernel";
    return 1;
}

int cuFuncGetAttribute(int* value, int, void*) {
    *value = 0;
    return 0;
}

int cuLaunchKernel(
    void* function, unsigned grid_x, unsigned, unsigned, unsigned threads, unsigned, unsigned, unsigned shared, void*,
    void** parameters, void**) {
    const Kernel& kernel = *static_cast<const Kernel*>(function);
    ++n_launches;
    failure.clear();
    if (grid_x == 0 || threads == 0 || threads > kernel.most_threads || threads % WARP != 0) {
        failure = "a grid of " + std::to_string(grid_x) + " blocks of " + std::to_string(threads) + " threads";
    } else if (shared > MAX_SHARED) {
        failure = std::to_string(shared) + " bytes of shared memory";
    }
    return failure.empty() ? run_grid({kernel.body, parameters[0]}, grid_x, threads, shared) : 1;
}
}
