"""Run by test_cuda_kernels under the address sanitizer: calls whose sizes fit no tile, then one beyond its memory."""

import os
import sys
from pathlib import Path

import torch

from dream_accel.backends import cuda
from support import emulated_cuda


def numbers(*shape, dtype=torch.float32):
    return torch.arange(torch.Size(shape).numel()).remainder(17).sub(8).reshape(shape).to(dtype)


def main(library: Path) -> None:
    sizes, D, K = [65, 0, 1, 130], 19, 70
    offsets = torch.tensor([0, *sizes]).cumsum(0)
    for dtype in (torch.float32, torch.float16):
        x, centroids = numbers(sum(sizes), D, dtype=dtype), numbers(len(sizes), K, D)
        labels, _ = cuda.kmeans_assign(x, offsets, centroids, None, None, None, "fp32")
        cuda.kmeans_assign(x, offsets, centroids[:, :3].contiguous(), None, None, None, "fp32", False)
        cuda.kmeans_update(x, offsets, labels // 2, K, None, centroids, None, "farthest")
        cuda.nearest_members(x, offsets, centroids, labels, 3)
        shapes = [(3, 5, 3, 3, 3), (3, 7), (3, 2, 301), (3, 0, 4), (3, 1, 4099)]
        real, synthetic = ([numbers(*shape, dtype=dtype) for shape in shapes] for _ in "xy")
        synthetic[0] = torch.empty(5, 3, 3, 3, 3).permute(1, 0, 4, 2, 3).copy_(synthetic[0]).to(dtype)
        for metric in ("mse", "l1_mean", "cos", "global_cos"):
            *_, grads = cuda.gradient_distance(real, synthetic, metric, True, True)
            cuda.feature_distance([numbers(3, 5, 11, dtype=dtype)], [numbers(3, 2, 11)], metric, True, True)
        cuda.scale_gradients(grads, numbers(3, len(grads)), True)
    print("served", flush=True)

    # The sanitizer ends the process where it finds a read beyond the end; the parent sees that it does.
    if os.fork() == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        cuda.kmeans_assign(x[:-1].clone(), offsets, centroids, None, None, None, "fp32")
        os._exit(0)
    print("found" if os.waitstatus_to_exitcode(os.wait()[1]) != 0 else "missed")


with emulated_cuda.in_place(Path(sys.argv[1])):
    main(Path(sys.argv[1]))
