"""Measurements of the images that a sampler picks."""

from .gradient_norms import gradient_norms

__all__ = ["gradient_norms"]
