"""Manifests: what an artefact that runs share, a folder of experts or a pool, was computed from and how."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from ..results import versions
from ..runtime.files import write_text


class OtherVersionError(ValueError):
    """A manifest of another format."""


@dataclass(frozen=True)
class Manifest:
    """The description of all files of a folder.

    Attributes:
        settings: by name, in values that JSON gives back.
        data: fingerprint of the training set.
    """

    settings: dict[str, Any]
    data: dict[str, Any]

    @property
    def digest(self) -> str:
        """A hash of settings and data, stored in every file that the manifest describes."""
        text = json.dumps([self.settings, self.data], sort_keys=True)
        return blake2b(text.encode(), digest_size=16).hexdigest()

    def write(self, path: Path, format: str) -> None:
        """Write the manifest, with the versions of the program and of torch."""
        described = {"format": format, "settings": self.settings, "data": self.data, "versions": versions()}
        write_text(path, json.dumps(described, indent=2) + "\n")

    @classmethod
    def read(cls, path: Path, format: str, required: Collection[str]) -> Manifest:
        """Read what :meth:`write` wrote.

        Args:
            path: the file.
            format: the format it must have.
            required: names of settings that it must have.

        Raises:
            OtherVersionError: it has another format.
            OSError, ValueError, KeyError, TypeError: there is none, or it is damaged.
        """
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["format"] != format:
            raise OtherVersionError(f"format {found['format']!r}")
        manifest = cls(dict(found["settings"]), dict(found["data"]))
        missing = [name for name in required if name not in manifest.settings]
        if missing:
            raise ValueError(f"no setting {missing[0]}")
        return manifest
