// Scratch memory of a call, cut into arrays. The caller allocates it, from PyTorch.
#pragma once

#include <cstdint>

namespace dream_accel {
namespace cuda {

inline int64_t ceil_div(int64_t n, int64_t by) { return (n + by - 1) / by; }

// Bytes an array takes of a workspace.
template <class T>
int64_t bytes_of(int64_t n) {
    constexpr int64_t ALIGN = 16;
    return ceil_div(n * static_cast<int64_t>(sizeof(T)), ALIGN) * ALIGN;
}

class Workspace {
public:
    explicit Workspace(void* memory) : next_(static_cast<char*>(memory)) {}

    template <class T>
    T* take(int64_t n) {
        T* array = reinterpret_cast<T*>(next_);
        next_ += bytes_of<T>(n);
        return array;
    }

private:
    char* next_;
};

}  // namespace cuda
}  // namespace dream_accel
