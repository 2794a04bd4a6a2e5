"""Call signatures of existing code bases, computed by this library."""

from .dc import match_loss

__all__ = ["match_loss"]
