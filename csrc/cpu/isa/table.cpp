#include "functions.h"

namespace dream_accel {
namespace DREAM_ISA {

#define DREAM_STRING_(name) #name
#define DREAM_STRING(name) DREAM_STRING_(name)

extern const Kernels table;
const Kernels table = {
    DREAM_STRING(DREAM_ISA),
    assign_geometry,
    assign_scratch,
    assign_tile,
    pack_panel,
    all_finite,
    row_distance,
    mean_of_rows,
    squared_differences,
    absolute_differences,
    products,
    cosine_gradient,
    to_float,
    from_float,
    norm_relu_pool,
    norm_relu_pool_backward,
    norm_relu_pool_double_backward,
};

}  // namespace DREAM_ISA
}  // namespace dream_accel
