"""Recipes: one file per method, each with its paper, its published settings, its objective and its schedule.

``recipe("dream", dataset="cifar10", ipc=10)`` starts from the settings of the method, applies those published for the
data set, then the caller's own. To add a method, add its file here and its module to ``_METHODS`` in
``registry.py``: ``docs/extending.md`` shows both.
"""

from .registry import RECIPES, Method, defaults, recipe, setting_help
from .settings import PANELS, SETTINGS, Recipe

__all__ = ["PANELS", "RECIPES", "SETTINGS", "Method", "Recipe", "defaults", "recipe", "setting_help"]
