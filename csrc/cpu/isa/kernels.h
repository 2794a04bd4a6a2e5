// The part of the CPU kernels that is compiled once per instruction set, as one table of functions each.
#pragma once

#include <cstdint>

#include "../../metrics.h"
#include "../bounds.h"
#include "../types.h"

namespace dream_accel {

// Rows of one group to assign, and its centroids as prepared by pack_panel.
struct AssignTile {
    const void* x;  // IN (n_rows, D) of dtype
    Dtype dtype;
    int64_t n_rows;
    int64_t D;
    int64_t K;
    const float* centroids;  // IN (K, D) as given
    const float* centre;     // IN (D,) what pack_panel subtracted
    const float* packed;     // IN panels as pack_panel wrote them
    const float* norms;      // IN (K padded to whole vectors,), +inf where a centroid is dead
    int32_t first_live;      // the lowest live centroid
    int32_t* labels;         // OUT (n_rows,)
    float* distance;         // OUT (n_rows,) or null: not asked for
    float* scratch;          // assign_scratch(K) floats, 64-byte aligned
};

struct AssignGeometry {
    int lanes;      // floats in a vector; a panel holds the centroids of two, the last panel of one or two
    int row_block;  // rows a tile should hold a multiple of
    int depth;      // a panel's features are padded to a multiple of this
};

// A plane of feature maps, and the affine pair of its channel.
struct NormPlane {
    const float* y;  // IN (height, width)
    int64_t height, width;
    float weight, bias;
    float* scratch;  // one and a half planes
};

struct Kernels {
    const char* name;

    AssignGeometry (*assign_geometry)();
    int64_t (*assign_scratch)(int64_t K);
    void (*assign_tile)(const AssignTile& tile);

    // Writes n centroids as a panel of width lanes or 2 * lanes (-2 (c_j - centre) in the order assign_tile reads
    // them), and their |c_j - centre|^2 into norms. A null pointer is a dead centroid; it and the places from n to
    // width are zeros with norm +inf.
    void (*pack_panel)(
        const float* const* centroids, int n, int width, int64_t D, const float* centre, float* packed, float* norms);

    bool (*all_finite)(const float* values, int64_t n);

    // Squared distance of two rows of D elements.
    float (*row_distance)(const void* x, Dtype dtype, const float* centroid, int64_t D);

    // out[d] = mean over the n rows x[rows[i]] of columns first <= d < last, accumulated in double in the order of
    // rows.
    void (*mean_of_rows)(
        const void* x, Dtype dtype, int64_t D, const int32_t* rows, int64_t n, int64_t first, int64_t last, float* out);

    // Sum of the terms of metrics.h over n elements; grad, unless null, receives slope_scale times their slopes.
    double (*squared_differences)(const float* x, const float* y, int64_t n, float slope_scale, float* grad);
    double (*absolute_differences)(const float* x, const float* y, int64_t n, float slope_scale, float* grad);
    Products<double> (*products)(const float* x, const float* y, int64_t n);
    void (*cosine_gradient)(const float* x, const float* y, int64_t n, double along_x, double along_y, float* grad);

    // n elements to float, and n floats times scale from float.
    void (*to_float)(const void* source, Dtype dtype, int64_t n, float* target);
    void (*from_float)(const float* source, int64_t n, float scale, void* target, Dtype dtype);

    // Of one plane, what operators.h says of all.
    void (*norm_relu_pool)(const NormPlane& plane, float eps, float* pooled, float* mean, float* rstd);
    void (*norm_relu_pool_backward)(
        const NormPlane& plane, float mean, float rstd, const float* of_pooled, float* of_y);
    void (*norm_relu_pool_double_backward)(
        const NormPlane& plane, float mean, float rstd, const float* of_pooled, const float* of_of_y,
        float* of_of_pooled, float* of_y);
};

// The table in use: the best the processor runs, or what force_isa chose.
const Kernels& kernels();

// The table for assignments of this size.
const Kernels& kernels_for_assign(int64_t K, int64_t D);

// Rows of one group to compare with the columns that may hold a nearer centroid. Outputs are indexed by a row's
// position in the group.
struct BoundedTile {
    // x is the group's first row; labels (IN and OUT) are the group's; the panels begin with n_packed columns; there
    // are no distances.
    AssignTile group;
    const float* records;     // IN of the group's rows, as record_rows wrote them
    const int32_t* rows;      // IN (group.n_rows,) by falling need
    const int32_t* n_needed;  // IN of the group's rows: how many columns may hold another label
    int64_t n_packed;         // at least what any row needs
    const int32_t* order;     // IN (K,) the centroid of every column
    const int32_t* column;    // IN (K,) the column of every centroid
    const float* moved;       // IN (K,) by column, falling: bound on how far its centroid moved, -inf where dead
    Bounds* bounds;           // IN and OUT; IN: own of the centroids as they are, others of those before they moved
};

// Functions of assignments that keep bounds for every row from one iteration to the next.
struct BoundedKernels {
    // A row's record: the row relative to centre, in the form in which it is multiplied.
    int64_t (*record_floats)(int64_t D);
    void (*record_rows)(const void* x, Dtype dtype, int64_t n_rows, int64_t D, const float* centre, float* records);

    // Takes assign_scratch(K) floats.
    void (*compare_tile)(const BoundedTile& tile);
};

// The functions that belong to kernels_for_assign(K, D), or null.
const BoundedKernels* bounded_kernels(int64_t K, int64_t D);

// Products in float; for an instruction set whose assignments round, those of the next slower set.
struct FloatProducts {
    const Kernels& table;  // what packs, and says how

    // out[i * stride + k] = (x_i - centre).(c_k - centre) for the rows and the K centroids of the tile.
    void (*multiply_tile)(const AssignTile& tile, float* out, int64_t stride);
};

FloatProducts float_products();

// Names of the instruction sets that are compiled in and run here, slowest first.
const char* const* available_isas();

// Uses the named instruction set from here on, the best where name is empty. False if it is not available.
bool force_isa(const char* name);

}  // namespace dream_accel
