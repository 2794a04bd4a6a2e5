"""Normalisation constants of other programs, by data set; their files store images normalised by them."""

from __future__ import annotations

from ..data import Normalization

_CIFAR10 = Normalization((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
_IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

DC_CONSTANTS = {
    "mnist": Normalization((0.1307,), (0.3081,)),
    "fashion-mnist": Normalization((0.2861,), (0.3530,)),
    "svhn": Normalization((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
    "cifar10": _CIFAR10,
    "cifar100": Normalization((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)),
    "tiny-imagenet": _IMAGENET,
}
"""The constants of DC, DSA, DM, MTT, TESLA, FTD and DATM."""

DD_RANKING_CONSTANTS = {"cifar10": _CIFAR10, "cifar100": _CIFAR10, "tiny-imagenet": _IMAGENET}
"""The constants of DD-Ranking, which uses those of CIFAR-10 for CIFAR-100 as well."""
