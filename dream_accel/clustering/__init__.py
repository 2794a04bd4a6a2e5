"""K-Means over many ragged groups at once: exact, seeded, without a host round trip in the loop.

``estimator.py`` has the public class, ``seeding.py`` the initial centroids, ``lloyd.py`` the iteration, ``rows.py`` the
checks of rows, ``empty_clusters.py`` the rule for clusters that run empty.
"""

from .estimator import BatchedKMeans
from .function import KMeansResult, kmeans
from .parameters import INITS
from .rows import check_finite, finite_rows
from .scaling import scaled_rows

__all__ = ["INITS", "BatchedKMeans", "KMeansResult", "check_finite", "finite_rows", "kmeans", "scaled_rows"]
