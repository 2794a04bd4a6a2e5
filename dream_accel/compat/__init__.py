"""Drop-in replacements with the call signatures of existing code bases: one module per family.

======================  ==========================================  ==========================================
module                  for                                         names
======================  ==========================================  ==========================================
``dc``                  DC, DSA, DM, DataDAM, CAFE, IDM, IID        ``GetImages``, ``match_loss``
``idc``                 IDC, DREAM, DANCE, TGDD, NCFM               ``RepresentativeLoader``, ``dist``, ``matchloss``
``dream``               DREAM                                       ``NEW_Strategy``
``fast_pytorch_kmeans`` code that imports that package              ``KMeans``, ``MultiKMeans``
``once``                MTT, TESLA, FTD, DATM, RDED, D4M            ``class_indices``
======================  ==========================================  ==========================================
"""

from .dc import GetImages, match_loss
from .dream import NEW_Strategy
from .fast_pytorch_kmeans import KMeans, MultiKMeans
from .idc import RepresentativeLoader, dist, matchloss
from .once import class_indices

__all__ = [
    "GetImages",
    "KMeans",
    "MultiKMeans",
    "NEW_Strategy",
    "RepresentativeLoader",
    "class_indices",
    "dist",
    "match_loss",
    "matchloss",
]
