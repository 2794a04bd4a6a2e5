// The smallest of many keys, in order: a selection by digits in shared memory, then a sort of what was selected.
#pragma once

#include "device.cuh"
#include "kmeans_arguments.h"

namespace dream_accel {
namespace cuda {

struct Digit {
    int value, n_before, n_here;  // n_before keys have a lower digit, n_here this one
};

// The digit of the wanted-th of the keys that are counted in a histogram, for every lane; value is DIGITS where there
// are fewer.
__device__ inline Digit digit_of(const int* histogram, int wanted) {
    constexpr int OWN = DIGITS / WARP;
    int own = 0;
    for (int d = 0; d < OWN; ++d) own += histogram[lane() * OWN + d];
    int upto = own;
    for (int step = 1; step < WARP; step *= 2) {
        const int below = __shfl_up_sync(ALL_LANES, upto, step);
        if (lane() >= step) upto += below;
    }
    Digit found = {0, upto - own, 0};
    const bool is_here = found.n_before < wanted && wanted <= upto;
    if (is_here) {
        found.value = lane() * OWN;
        while (found.n_before + histogram[found.value] < wanted) found.n_before += histogram[found.value++];
        found.n_here = histogram[found.value];
    }
    if (lanes_sum(is_here ? 1 : 0, WARP) == 0) return {DIGITS, 0, 0};
    return {lanes_sum(found.value, WARP), lanes_sum(is_here ? found.n_before : 0, WARP), lanes_sum(found.n_here, WARP)};
}

// The wanted-th smallest of n keys that differ from each other, or a bound between it and the next; for
// every thread. NO_KEY is no key, and is returned where there are fewer. All threads must call it.
__device__ inline unsigned long long nth_key(const unsigned long long* keys, int n, int wanted, int* histogram) {
    unsigned long long prefix = 0, known = 0;  // the digits found, and a mask of them
    for (int shift = 64 - DIGIT_BITS; shift >= 0; shift -= DIGIT_BITS) {
        for (int d = threadIdx.x; d < DIGITS; d += blockDim.x) histogram[d] = 0;
        __syncthreads();
        for (int i = threadIdx.x; i < n; i += blockDim.x) {
            const unsigned long long key = keys[i];
            if (key != NO_KEY && (key & known) == prefix) atomicAdd(&histogram[key >> shift & (DIGITS - 1)], 1);
        }
        __syncthreads();
        const Digit digit = digit_of(histogram, wanted);
        __syncthreads();  // histogram may be written again
        if (digit.value == DIGITS) return NO_KEY;
        wanted -= digit.n_before;
        prefix |= static_cast<unsigned long long>(digit.value) << shift;
        known |= static_cast<unsigned long long>(DIGITS - 1) << shift;
        if (digit.n_here == wanted) return prefix | ~known;  // all keys that begin so are wanted
    }
    return prefix;
}

// Sorts n keys within a block. Keys from n on count as infinite, so n need not be a power of two.
__device__ inline void sort_keys(unsigned long long* keys, int n) {
    for (long long size = 2; size < 2LL * n; size *= 2) {
        for (long long step = size / 2; step > 0; step /= 2) {
            for (long long i = threadIdx.x; i < n; i += blockDim.x) {
                // The first step of a merge compares from both ends, so that every comparison has the same direction.
                const long long other = step == size / 2 ? (i & ~(size - 1)) + size - 1 - (i & (size - 1)) : i ^ step;
                if (other > i && other < n && keys[other] < keys[i]) {
                    const unsigned long long key = keys[i];
                    keys[i] = keys[other];
                    keys[other] = key;
                }
            }
            __syncthreads();
        }
    }
}

// Moves the `wanted` smallest keys to the front, in order, and returns their number to every thread: fewer where there
// are fewer. The other keys are lost. histogram is shared memory for DIGITS integers. All threads must call it.
__device__ inline int take_smallest(unsigned long long* keys, int n, int wanted, int* histogram) {
    if (wanted == 0) return 0;
    const unsigned long long last = nth_key(keys, n, wanted, histogram);
    int n_taken = 0;
    for (int i0 = 0; i0 < n; i0 += blockDim.x) {
        const int i = i0 + threadIdx.x;
        const unsigned long long key = i < n ? keys[i] : NO_KEY;
        const bool taken = key != NO_KEY && key <= last;
        int total = 0;
        const int place = n_taken + block_exclusive_scan(taken, total);  // waits until all have read
        if (taken) keys[place] = key;
        n_taken += total;
        __syncthreads();
    }
    sort_keys(keys, n_taken);
    return n_taken;
}

}  // namespace cuda
}  // namespace dream_accel
