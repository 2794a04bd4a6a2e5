"""Reading and writing the result files of other programs: one module per family.

=============  ================================  ==============================================
family         programs                          layout
=============  ================================  ==============================================
``dc``         DC, DSA, DM                       a file ``{'data': [[images, labels], ...], ...}``, one
                                                 pair per experiment, images normalised
``idc``        IDC, DREAM, NCFM                  a file ``[images, labels]``, pixels in [0, 1], factor-packed
``mtt``        MTT, TESLA, FTD, DATM             a folder with ``images_best.pt``, ``labels_best.pt``
                                                 (soft in DATM), ``lr_best.pt``, images normalised
``folder``     RDED, SRe2L, D4M                  a folder of image files per class
``ddranking``  DD-Ranking                        a folder with ``images.pt``, ``labels.pt``, ``lr.pt``,
                                                 images normalised
=============  ================================  ==============================================

Files of tensors are read with ``weights_only=True``, so no other object is ever unpickled.
"""

from .families import FAMILIES, WRITERS, read, write
from .foreign import Foreign
from .loading import load

__all__ = ["FAMILIES", "WRITERS", "Foreign", "load", "read", "write"]
