#include "driver.h"

#include <dlfcn.h>

#include <array>
#include <limits>
#include <map>
#include <mutex>
#include <stdexcept>

namespace dream_accel {
namespace cuda {
namespace {

// The part of the driver's interface used here, as cuda.h declares it. Its symbols keep their meaning for good.
struct Api {
    int (*cuInit)(unsigned);
    int (*cuGetErrorString)(int, const char**);
    int (*cuDeviceGet)(int*, int);
    int (*cuDevicePrimaryCtxRetain)(void**, int);
    int (*cuCtxPushCurrent_v2)(void*);
    int (*cuCtxPopCurrent_v2)(void**);
    int (*cuModuleLoadData)(void**, const void*);
    int (*cuModuleGetFunction)(void**, void*, const char*);
    int (*cuFuncGetAttribute)(int*, int, void*);
    int (*cuLaunchKernel)(
        void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*, void**, void**);
};

struct Name {
    const char* name;
    bool is_large;
};

constexpr Name NAMES[] = {
#define DREAM_KERNEL(name, Arguments, threads, blocks, function) {"dream_" #name, false},
#define DREAM_LARGE_KERNEL(name, Arguments, threads, blocks, function) {"dream_" #name, true},
#include "kernels.inc"
#undef DREAM_LARGE_KERNEL
#undef DREAM_KERNEL
};
constexpr size_t N_KERNELS = sizeof(NAMES) / sizeof(NAMES[0]);

struct Loaded {
    void* context;
    bool has_large;
    std::array<void*, N_KERNELS> kernels;
};

struct State {
    std::mutex mutex;
    std::string path = "libcuda.so.1";
    bool ready = false;
    Api api;
    std::map<int, Loaded> devices;
};

State& state() {
    static State* only = new State;  // outlives every static object that may still launch
    return *only;
}

void check(const Api& api, int status, const std::string& what) {
    if (status == 0) return;
    const char* message = nullptr;
    api.cuGetErrorString(status, &message);
    throw std::runtime_error(what + ": " + (message ? message : "CUDA error") + " (" + std::to_string(status) + ")");
}

template <class Function>
void find(void* library, const char* name, Function& function) {
    function = reinterpret_cast<Function>(dlsym(library, name));
    if (!function) throw std::runtime_error(std::string("the CUDA driver has no ") + name + ": install a newer one");
}

const Api& opened(State& s) {
    if (s.ready) return s.api;
    void* library = dlopen(s.path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library) throw std::runtime_error(std::string("the CUDA driver cannot be opened: ") + dlerror());
#define DREAM_FIND(name) find(library, #name, s.api.name)
    DREAM_FIND(cuInit);
    DREAM_FIND(cuGetErrorString);
    DREAM_FIND(cuDeviceGet);
    DREAM_FIND(cuDevicePrimaryCtxRetain);
    DREAM_FIND(cuCtxPushCurrent_v2);
    DREAM_FIND(cuCtxPopCurrent_v2);
    DREAM_FIND(cuModuleLoadData);
    DREAM_FIND(cuModuleGetFunction);
    DREAM_FIND(cuFuncGetAttribute);
    DREAM_FIND(cuLaunchKernel);
#undef DREAM_FIND
    check(s.api, s.api.cuInit(0), "CUDA does not start");
    s.ready = true;
    return s.api;
}

// Makes a context current for a scope, whichever was, and whether one was at all: PyTorch sets one per thread when it
// first needs it.
class Current {
public:
    Current(const Api& api, void* context) : api_(api) { check(api, api.cuCtxPushCurrent_v2(context), "CUDA context"); }
    ~Current() {
        void* popped;
        api_.cuCtxPopCurrent_v2(&popped);
    }
    Current(const Current&) = delete;
    Current& operator=(const Current&) = delete;

private:
    const Api& api_;
};

}  // namespace

void open_driver(const std::string& path) {
    State& s = state();
    const std::lock_guard<std::mutex> lock(s.mutex);
    s.path = path.empty() ? "libcuda.so.1" : path;
    s.ready = false;
    s.devices.clear();
}

void load_kernels(int device, const std::string& image) {
    State& s = state();
    const std::lock_guard<std::mutex> lock(s.mutex);
    const Api& api = opened(s);
    int handle;
    Loaded loaded;
    const std::string where = "CUDA device " + std::to_string(device);
    check(api, api.cuDeviceGet(&handle, device), where);
    check(api, api.cuDevicePrimaryCtxRetain(&loaded.context, handle), where);
    const Current current(api, loaded.context);
    void* module;
    check(api, api.cuModuleLoadData(&module, image.data()), where + " does not take the kernels");
    loaded.has_large = true;
    for (size_t i = 0; i < N_KERNELS; ++i) {
        const int status = api.cuModuleGetFunction(&loaded.kernels[i], module, NAMES[i].name);
        constexpr int NOT_FOUND = 500;
        if (status == NOT_FOUND && NAMES[i].is_large) {
            loaded.has_large = false;
            continue;
        }
        check(api, status, NAMES[i].name);
        // With lazy loading the code itself comes with the first use of a function, which may be under capture.
        int version;
        constexpr int BINARY_VERSION = 6;
        check(api, api.cuFuncGetAttribute(&version, BINARY_VERSION, loaded.kernels[i]), NAMES[i].name);
    }
    s.devices[device] = loaded;
}

bool kernels_loaded(int device) {
    State& s = state();
    const std::lock_guard<std::mutex> lock(s.mutex);
    return s.devices.count(device) > 0;
}

bool has_large_kernels(int device) {
    State& s = state();
    const std::lock_guard<std::mutex> lock(s.mutex);
    const auto found = s.devices.find(device);
    return found != s.devices.end() && found->second.has_large;
}

void launch_kernel(
    const Queue& queue, KernelId kernel, int64_t grid, unsigned threads, unsigned shared, const void* arguments) {
    if (grid == 0) return;
    const char* name = NAMES[static_cast<int>(kernel)].name;
    if (grid > std::numeric_limits<int32_t>::max()) {
        throw std::invalid_argument(
            std::string(name) + " would need " + std::to_string(grid) +
            " blocks and a launch holds 2147483647: pass fewer groups or classes at a time");
    }
    State& s = state();
    std::unique_lock<std::mutex> lock(s.mutex);
    const auto found = s.devices.find(queue.device);
    if (found == s.devices.end()) throw std::runtime_error("the CUDA kernels are not loaded on this device");
    const Loaded loaded = found->second;
    const Api& api = s.api;
    lock.unlock();
    const Current current(api, loaded.context);
    void* parameters[] = {const_cast<void*>(arguments)};
    check(
        api,
        api.cuLaunchKernel(
            loaded.kernels[static_cast<int>(kernel)], static_cast<unsigned>(grid), 1, 1, threads, 1, 1, shared,
            queue.stream, parameters, nullptr),
        name);
}

}  // namespace cuda
}  // namespace dream_accel
