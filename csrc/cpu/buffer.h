// Uninitialised scratch memory, aligned for any vector.
#pragma once

#include <cstddef>
#include <memory>
#include <new>

namespace dream_accel {

struct AlignedDelete {
    void operator()(void* memory) const { ::operator delete(memory, std::align_val_t(64)); }
};

template <class T>
using Buffer = std::unique_ptr<T[], AlignedDelete>;

template <class T>
Buffer<T> make_buffer(int64_t n) {
    const size_t bytes = sizeof(T) * static_cast<size_t>(n > 0 ? n : 1);
    return Buffer<T>(static_cast<T*>(::operator new(bytes, std::align_val_t(64))));
}

}  // namespace dream_accel
