"""For the site: docstrings name other objects with roles, which Markdown does not know."""

import re

import griffe

_ROLE = re.compile(r":(?:class|func|meth|mod):`~?([^`]+)`")


class Roles(griffe.Extension):
    """Turns ``:class:`X``` into plain code, and double backticks into single ones."""

    def on_object(self, *, obj, **kwargs):  # griffe calls it for everything that can have a docstring
        if obj.docstring:
            obj.docstring.value = _ROLE.sub(r"`\1`", obj.docstring.value).replace("``", "`")
