"""Matching real and synthetic images: objectives, the matching step for all classes, and the pixel optimiser."""
