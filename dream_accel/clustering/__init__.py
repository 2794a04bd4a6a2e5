"""K-Means over many ragged groups at once: exact, seeded, without a host round trip in the loop.

``estimator.py`` holds the public class, ``seeding.py`` where a fit begins, ``lloyd.py`` how it goes on, ``rows.py``
what is refused.
"""

from .estimator import INITS, BatchedKMeans
from .function import KMeansResult, kmeans
from .rows import check_finite, finite_rows

__all__ = ["INITS", "BatchedKMeans", "KMeansResult", "check_finite", "finite_rows", "kmeans"]
