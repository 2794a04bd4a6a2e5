// Device code in the module: the image that nvcc compiled, if it did, and the sources for a run-time compiler.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace dream_accel {
namespace cuda {

// The fat binary of csrc/cuda/kernels.cu; empty where the module was built without nvcc.
std::string embedded_image();

// (name as #include gives it, text) of kernels.cu, which comes first, and of everything it includes.
std::vector<std::pair<std::string, std::string>> embedded_sources();

}  // namespace cuda
}  // namespace dream_accel
