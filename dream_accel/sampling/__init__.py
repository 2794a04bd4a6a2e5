"""Choosing real images: strategies, the sampler of a matching loop, and one-time selection."""

from .sampler import RepresentativeSampler
from .selection import select, select_by_score

__all__ = ["RepresentativeSampler", "select", "select_by_score"]
