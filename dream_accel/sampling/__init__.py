"""Choosing real images: strategies, the sampler of a matching loop, and selections made once."""

from .sampler import RepresentativeSampler, select

__all__ = ["RepresentativeSampler", "select"]
