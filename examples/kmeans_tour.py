"""A tour of batched K-Means by itself, cell by cell: many groups of different sizes in one call.

    python examples/kmeans_tour.py

Editors that know ``# %%`` run it as a notebook.
"""

# %% [markdown]
# Rows of all groups lie one after another; ``offsets`` says where each group begins. Group 3 is tiny.

# %%
import torch

import dream_accel as da

draws = torch.Generator().manual_seed(0)
sizes = torch.tensor([900, 350, 1200, 40])
offsets = torch.nn.functional.pad(sizes.cumsum(0), (1, 0))
x = torch.randn(int(sizes.sum()), 64, generator=draws)
print(f"rows {tuple(x.shape)}, offsets {offsets.tolist()}")

# %% [markdown]
# One call clusters every group. Labels, centroids, counts and inertia that it returns are consistent with each other.

# %%
km = da.BatchedKMeans(n_clusters=16, max_iter=50, seed=0).fit(x, offsets)
for group, (size, inertia, iterations) in enumerate(zip(sizes, km.inertia_, km.n_iter_, strict=True)):
    print(f"group {group}: {size} rows, inertia {inertia:.0f} after {iterations} iterations")

# %% [markdown]
# A group's result does not depend on its neighbours: alone it is the same, bit for bit.

# %%
alone = da.BatchedKMeans(n_clusters=16, max_iter=50, seed=0).fit(x[900:1250])
print(f"group 1 alone is the same: {torch.equal(alone.labels_, km.labels_[900:1250])}")

# %% [markdown]
# The real rows nearest each cluster's centre, nearest first, all distinct.

# %%
picks = km.representatives(n=2)
print(f"2 rows nearest each of 16 centres, per group: {tuple(picks.shape)}, all distinct within a group")

# %% [markdown]
# Features that drifted are clustered from the last partition: a few iterations instead of many.

# %%
drifted = x + 0.2 * torch.randn(x.shape, generator=draws)
cold = da.kmeans(drifted, offsets, n_clusters=16, max_iter=50, seed=0)
km.fit(drifted, offsets, init="labels")
print(f"iterations after a warm start {km.n_iter_.tolist()}, from random rows {cold.n_iter.tolist()}")

# %% [markdown]
# Rows that come later; NumPy arrays give NumPy arrays; and code that imports fast_pytorch_kmeans changes the import.

# %%
more = torch.randn(40, 64, generator=draws)
print(f"new rows fall into clusters {km.predict(more, [0, 10, 20, 30, 40])[:5].tolist()} ...")
print(f"from NumPy: {type(da.kmeans(x.numpy(), offsets.numpy(), n_clusters=16).labels).__name__}")

from dream_accel.compat import KMeans  # noqa: E402 (where a reader of the tour meets it)

labels = KMeans(n_clusters=16, mode="euclidean").fit_predict(x)
print(f"the interface of fast_pytorch_kmeans: labels {tuple(labels.shape)} {labels.dtype}")
