// What the kernels take, and the sizes host and device agree on.
#pragma once

#include "distance_arguments.h"
#include "kmeans_arguments.h"
