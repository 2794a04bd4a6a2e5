// Repeated assignment of the same rows, which skips centroids by two bounds that are kept for every row.
//
// With own_i >= |x_i - c_label| and others_i <= |x_i - c_k| for every other k before the centroids moved by m_k,
// centroid k cannot have become the nearest unless  m_k >= others_i - own_i - m_label  (after Hamerly, Making k-means
// even faster, SDM 2010, with the shift of every centroid in place of the largest). So the centroids of a group are
// sorted by how far they moved, farthest first, and a row is compared with as many of them as that inequality allows:
// with all in the first iterations, with hardly any in the last. The labels are those of kmeans_assign.
#pragma once

#include <cstdint>
#include <vector>

#include "bounds.h"
#include "buffer.h"
#include "isa/kernels.h"
#include "operators.h"

namespace dream_accel {

class BoundedAssignment {
public:
    // Whether there are kernels for it, and enough memory, which is half as much again as the rows in float.
    static bool serves(const Rows& rows, int64_t K);

    // The centroids of all later calls, (G, K, D), have moved from start.
    BoundedAssignment(const Rows& rows, const float* start, int64_t K, int n_threads);

    // Writes the labels of the rows of some groups, none of them empty.
    //   centroids  IN (G, K, D)
    //   previous   IN (G, K, D) those of the last call; any values in the first one
    //   labels     IN, OUT (N,) as the last call wrote them; any values in the first one
    void assign(const std::vector<int64_t>& groups, const float* centroids, const float* previous, int32_t* labels);

private:
    // Rows [first, last) of the group in a slot.
    struct Span {
        int64_t slot, first, last;
    };

    // A group that is being assigned.
    struct Slot {
        int64_t group;
        int32_t first_live;       // the lowest live centroid, or K
        int64_t n_needed;         // columns that at least one row must be compared with
        int64_t n_busy;           // rows that must be compared with any column
        int32_t *order, *column;  // (K,) the centroid of every column, and the column of every centroid
        float *shift, *moved;     // (K,) upper bound on how far each moved, -inf where dead; by centroid, by column
        const float** columns;    // (K,) the centroid of every column, null where it is dead
        float *norms, *packed;    // the panels
    };

    std::vector<Span> cut(const int64_t* groups, int64_t n) const;
    void assign_wave(const int64_t* groups, int64_t n);
    void place(Slot& slot, int64_t index);
    void sort_columns(Slot& slot);
    int64_t columns_needed(const Slot& slot, const Bounds& bounds) const;
    void find_need(const Slot& slot, int64_t row);
    void sort_rows(Slot& slot);
    void pack();
    void compare();
    void compare_tile(const Slot& slot, const Span& span, float* scratch);

    const Kernels& isa_;
    const BoundedKernels& kernels_;
    const AssignGeometry geometry_;
    const Rows& rows_;
    const int64_t K_, padded_, depth_, record_floats_;
    const int n_threads_;
    const int64_t scratch_size_;
    int64_t wave_;  // groups at a time
    Buffer<float> scratch_, centres_, records_, panels_;
    Buffer<Bounds> bounds_;
    Buffer<int32_t> needed_;  // of every row: columns
    Buffer<int32_t> sorted_;  // of every group: its rows, those that need most columns first
    std::vector<Slot> slots_;
    std::vector<int32_t> integers_;
    std::vector<float> floats_;
    std::vector<const float*> pointers_;

    // Arguments of the current call.
    const float *centroids_ = nullptr, *previous_ = nullptr;
    int32_t* labels_ = nullptr;
};

}  // namespace dream_accel
