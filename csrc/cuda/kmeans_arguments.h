// What the K-Means kernels take. One struct by value each: nothing is copied to the device before a launch, and a CUDA
// graph keeps it.
//
// Symbols: G groups, N rows, D features, K clusters; group g owns rows offsets[g] to offsets[g+1] - 1 of x. Rows of a
// group are counted from 0 in 32 bits, addresses in 64.
#pragma once

#include "../dtype.h"

namespace dream_accel {
namespace cuda {

constexpr int SWEEP_THREADS = 256;
constexpr int ASSIGN_THREADS = 256;
constexpr int ASSIGN_ROWS = 64;  // of a block
constexpr int MEMBER_THREADS = 1024;
constexpr int MEMBER_SHARED = 47 << 10;  // bytes, for the counters of a group; no kernel asks for more than 48 KB
constexpr int DIGIT_BITS = 8;            // of a key, counted at a time to find the smallest keys
constexpr int DIGITS = 1 << DIGIT_BITS;
constexpr int MEAN_THREADS = 256;
constexpr int MEAN_COLUMNS = 32;  // of a block: neighbouring lanes read neighbouring features
constexpr int PICK_THREADS = 512;

struct GroupedRows {
    const void* x;  // (N, D) of dtype
    Dtype dtype;
    long long N;
    long long D;
    const long long* offsets;  // (G+1,)
    long long G;
};

struct LiveArguments {
    const float* centroids;  // IN (G, K, D)
    unsigned char* live;     // OUT (G, K) whether a centroid is finite
    long long n;             // centroids of all groups
    long long D;
};

struct CentreArguments {
    const float* centroids;     // IN (G, K, D)
    const unsigned char* live;  // IN (G, K)
    float* centre;              // OUT (G, D)
    long long G;
    long long K;
    long long D;
};

struct AssignArguments {
    GroupedRows rows;
    const float* centroids;          // IN (G, K, D)
    const float* centre;             // IN (G, D)
    const unsigned char* active;     // IN (G,) or null: all
    const int* previous_labels;      // IN (N,) what rows of inactive groups keep; null without active
    const float* previous_distance;  // IN (N,) likewise
    int* labels;                     // OUT (N,)
    float* distance;                 // OUT (N,) or null: labels alone
    int K;
};

struct MembersArguments {
    GroupedRows rows;
    const int* labels;            // IN (N,)
    const float* distance;        // IN (N,) or null: where farthest, those to previous are computed
    const float* previous;        // IN (G, K, D) where farthest without distance, else unused
    const unsigned char* active;  // IN (G,) or null: all
    int* members;                 // OUT (N,) rows of the group sorted by (cluster, row)
    int* starts;                  // OUT (G, K+1) where the members of each cluster begin and the last ones end
    int* moved_labels;            // scratch (N,) where farthest
    float* own_distance;          // scratch (N,) where farthest without distance
    unsigned long long* keys;     // scratch (N,) where farthest
    int K;
    bool farthest;  // empty clusters take the farthest rows
};

struct MeanArguments {
    GroupedRows rows;
    const int* members;           // IN (N,)
    const int* starts;            // IN (G, K+1)
    const float* previous;        // IN (G, K, D) or null
    const unsigned char* active;  // IN (G,) or null: all
    float* centroids;             // OUT (G, K, D)
    int* counts;                  // OUT (G, K)
    int K;
    int n_slices;  // blocks per cluster
};

struct OwnDistanceArguments {
    GroupedRows rows;
    const float* centroids;    // IN (G, K, D)
    const int* labels;         // IN (N,)
    unsigned long long* keys;  // OUT (N,) order_key of the distance to the row's own centroid
    int K;
};

struct PickArguments {
    const long long* offsets;  // IN (G+1,)
    const int* members;        // IN (N,)
    const int* starts;         // IN (G, K+1)
    unsigned long long* keys;  // IN (N,); picked rows are crossed out
    long long* picks;          // OUT (G, K, n)
    int K;
    int n;
};

}  // namespace cuda
}  // namespace dream_accel
