// What the kernels of the distances take: pointers and shapes of many tensors by value, so that one launch serves all
// of them without a copy to the device, and a CUDA graph keeps them.
#pragma once

#include "../dtype.h"
#include "../metrics.h"

namespace dream_accel {
namespace cuda {

constexpr int DISTANCE_THREADS = 256;
constexpr int CHUNK = 4096;              // elements of a block, where the metric does not look at rows
constexpr int BATCHED_CHUNK = 256;       // the same where every element is a mean over a batch
constexpr int LONGEST_DOUBLE_ROW = 256;  // elements of rows that are added up in double throughout
constexpr int LONGEST_WARP_ROW = 2048;   // elements; longer rows take a block each, shorter ones a warp or its parts

// Tensors of a launch: all that fit 4 KB of arguments, or the 32,764 bytes that CUDA 12.1 and sm_70 introduced.
constexpr int FEW = 48;
constexpr int MANY = 448;

// One layer, as csrc/gradient_pair.h describes it.
struct LayerPair {
    const void* real;
    const void* synthetic;
    void* grad;  // or null
    long long length;
    long long real_stride;
    long long synthetic_stride;
    int rows;
    int interleave;
    int real_batch;
    int synthetic_batch;
    int first_block;  // of a class, within this launch
    unsigned char real_dtype;
    unsigned char synthetic_dtype;
};

// Elements a block takes of a layer, where the metric does not look at rows.
DREAM_METRIC constexpr int chunk_of(int real_batch, int synthetic_batch) {
    return real_batch == 1 && synthetic_batch == 1 ? CHUNK : BATCHED_CHUNK;
}

// Neighbouring lanes that share a row of the cosine; DISTANCE_THREADS where a block does.
DREAM_METRIC constexpr int threads_of_row(long long length) {
    return length > LONGEST_WARP_ROW ? DISTANCE_THREADS
           : length > 128            ? 32
           : length > 64             ? 16
           : length > 32             ? 8
           : length > 16             ? 4
           : length > 8              ? 2
                                     : 1;
}

struct DistanceSums {
    void* partials;           // scratch, one sum per block
    void* totals;             // scratch (G,) sums over the launches so far
    Cosine<double>* cosines;  // (G,) global_cos: what the derivative needs
    float* per_layer;         // OUT (G, n_columns)
    float* distance;          // OUT (G,)
    unsigned* tickets;        // (G,) zero before and after every launch
    int n_layers;             // of this launch
    int n_blocks;             // of a class, in this launch
    int first_column;         // of this launch in per_layer
    int n_columns;            // 1 for the global metrics
    bool row_mean;            // l1_mean: divide by the length of a row
    bool is_first;            // launch of the call
};

template <int N>
struct DistanceArguments {
    LayerPair layers[N];
    DistanceSums sums;
};

struct ScaledLayer {
    const void* gradient;  // IN (G, size)
    void* scaled;          // OUT (G, size)
    long long size;
    long long stride;  // elements from one class of gradient to the next
    int first_block;   // of a class, within this launch
    Dtype dtype;
};

template <int N>
struct ScaleArguments {
    ScaledLayer layers[N];
    const float* scale;  // IN (G, n_columns)
    int n_layers;
    int n_blocks;
    int first_column;
    int n_columns;
};

using FewDistances = DistanceArguments<FEW>;
using ManyDistances = DistanceArguments<MANY>;
using FewScales = ScaleArguments<FEW>;
using ManyScales = ScaleArguments<MANY>;

static_assert(sizeof(FewDistances) <= 4096 && sizeof(FewScales) <= 4096, "more arguments than a launch takes");
static_assert(sizeof(ManyDistances) <= 32764 && sizeof(ManyScales) <= 32764, "more arguments than a launch takes");

}  // namespace cuda
}  // namespace dream_accel
