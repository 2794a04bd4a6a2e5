"""Matching real and synthetic images: objectives, one step for all classes, and the optimiser of the pixels."""
