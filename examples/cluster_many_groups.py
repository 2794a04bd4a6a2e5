"""K-Means of many ragged groups in one call, and the real rows that stand for each cluster.

python examples/cluster_many_groups.py
"""

import torch

import dream_accel as da


def main() -> None:
    draws = torch.Generator().manual_seed(0)
    sizes = torch.tensor([900, 350, 1200, 40])
    offsets = torch.nn.functional.pad(sizes.cumsum(0), (1, 0))
    x = torch.randn(int(sizes.sum()), 64, generator=draws)

    km = da.BatchedKMeans(n_clusters=16, max_iter=50, seed=0).fit(x, offsets)
    for group, (size, inertia, iterations) in enumerate(zip(sizes, km.inertia_, km.n_iter_, strict=True)):
        print(f"group {group}: {size} rows, inertia {inertia:.0f} after {iterations} iterations")

    picks = km.representatives(n=2)
    print(f"2 rows nearest each of 16 centres, per group: {tuple(picks.shape)}, all distinct within a group")

    drifted = x + 0.2 * torch.randn(x.shape, generator=draws)
    km.fit(drifted, offsets, init="labels")
    print(f"warm start from the last partition in drifted features: {km.n_iter_.tolist()} iterations")


if __name__ == "__main__":
    main()
