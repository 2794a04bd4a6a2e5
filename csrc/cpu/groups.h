// The rows of every cluster of every group.
#pragma once

#include <cstdint>
#include <vector>

#include "operators.h"

namespace dream_accel {

// Sorts one group's rows by label, keeping their order within a cluster.
//   rows      OUT (n_rows,) row numbers within the group; those of cluster k are rows[begin[k]] .. rows[begin[k+1] - 1]
//   begin     OUT (K+1,); rows labelled outside [0, K) are left out
void sort_by_label(const int32_t* labels, int64_t n_rows, int64_t K, int32_t* rows, int32_t* begin);

// Threads worth waking for so many elementary operations.
int threads_for(int64_t n_operations, int n_threads);

}  // namespace dream_accel
