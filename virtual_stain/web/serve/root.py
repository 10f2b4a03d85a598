"""The slides that may be served: what lies below one folder, and nothing else.

A path from outside is never repaired: it is taken as it is or refused, and what it leads to, links followed, has to lie
below the root. Every refusal says the same, so that nothing is learned about what else there is.
"""

from __future__ import annotations

import os
import unicodedata
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from virtual_stain.errors import ConfigError, InputError
from virtual_stain.slides.endings import SLIDE_ENDINGS
from virtual_stain.web.problem import ApiError
from virtual_stain.web.serve.reach import files_behind

SUFFIXES = SLIDE_ENDINGS
"""As open_slide takes them."""
_MAX_ENTRIES = 5000
_MAX_PATH_BYTES = 1000


@dataclass(frozen=True, slots=True)
class Listed:
    """One slide in a folder."""

    path: str
    """Below the root, with /."""
    name: str
    bytes: int


class SlideRoot:
    """One folder, opened to readers."""

    def __init__(self, folder: Path) -> None:
        """Raises ConfigError."""
        if not folder.is_dir():
            raise ConfigError(
                f"web.root = {folder}: expected a folder of slides. Received: nothing there.",
                hint="vstain serve --root SLIDES --model MODEL",
            )
        self.folder = folder.resolve()

    def slide(self, relative: str) -> Path:
        """The file, links followed. 404 for everything that is not a slide below the root."""
        path = self._inside(relative)
        if path is None or not path.is_file() or path.suffix.lower() not in SUFFIXES or self._leads_outside(path):
            raise ApiError(404, "no such slide below the root of this server.")
        return path

    def _leads_outside(self, path: Path) -> bool:
        """Whether a library that opens it could read a file that does not lie below the root, links followed."""
        try:
            return not all(part.resolve().is_relative_to(self.folder) for part in files_behind(path))
        except (OSError, RuntimeError, ValueError, InputError):
            return True

    def listing(self, relative: str) -> tuple[list[str], list[Listed], bool]:
        """(folders, slides, whether some were left out) of one folder, by name. 404."""
        folder = self.folder if not relative else self._inside(relative)
        if folder is None or not folder.is_dir():
            raise ApiError(404, "no such folder below the root of this server.")
        folders: list[str] = []
        slides: list[Listed] = []
        try:
            with os.scandir(folder) as entries:
                names = sorted(e.name for e in entries if not e.name.startswith("."))
        except OSError:
            raise ApiError(404, "no such folder below the root of this server.") from None
        for name in names[:_MAX_ENTRIES]:
            below = f"{relative}/{name}" if relative else name
            found = self._inside(below)
            if found is None:
                continue
            if found.is_dir():
                folders.append(below)
            elif found.suffix.lower() in SUFFIXES and found.is_file():
                slides.append(Listed(below, name, found.stat().st_size))
        return folders, slides, len(names) > _MAX_ENTRIES

    def _inside(self, relative: str) -> Path | None:
        if not is_plain_path(relative):
            return None
        try:
            path = (self.folder / relative).resolve(strict=True)
        except (OSError, RuntimeError, ValueError):  # not there, a loop of links, NUL
            return None
        return path if path.is_relative_to(self.folder) else None


def is_plain_path(relative: str) -> bool:
    """A relative path of ordinary names: no . or .. or hidden part, no backslash, no control or format character."""
    if not relative or not is_text(relative) or len(relative.encode()) > _MAX_PATH_BYTES:
        return False
    parts = relative.split("/")
    return PurePosixPath(relative).parts == tuple(parts) and all(is_plain_name(part) for part in parts)


def is_plain_name(name: str) -> bool:
    return (
        bool(name)
        and not name.startswith(".")
        and "/" not in name
        and "\\" not in name
        and is_text(name)
        and len(name.encode()) <= 250
        and not any(unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp") for c in name)
    )


def is_text(value: str) -> bool:
    """No lone surrogates: they cannot be encoded."""
    return not any(0xD800 <= ord(c) <= 0xDFFF for c in value)
