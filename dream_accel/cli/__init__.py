"""The command line ``dream-accel``: :mod:`main`, and one file per command."""

from .main import app, main

__all__ = ["app", "main"]
