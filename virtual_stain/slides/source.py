"""What a slide file must give (`Source`; two implementations: `openslide_source` and `image_source`), and what a window
is read from (`Levels`; the one implementation is `Slide`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from virtual_stain.geometry import Affine2D, Box, Size
from virtual_stain.slides.resolution import MppClaim

Rgb = npt.NDArray[np.uint8]  # uint8[H, W, 3]


class Source(Protocol):
    """Pixels of one file by level; everything else about slides is built on this."""

    @property
    def format(self) -> str: ...

    @property
    def level_sizes(self) -> tuple[Size, ...]: ...

    @property
    def bounds(self) -> Box | None:
        """The scanned part in level-0 px, None: all of level 0."""

    @property
    def claims(self) -> Sequence[MppClaim]: ...

    @property
    def notes(self) -> tuple[str, ...]: ...

    @property
    def warnings(self) -> tuple[str, ...]: ...

    def read(self, level: int, x: int, y: int, size: Size) -> tuple[Rgb, float, float]:
        """uint8[H, W, 3] and the position in level px at which it truly starts, close to (x, y).

        Any position is allowed; what lies outside the level, or is transparent, is white.
        Raises SlideError naming file and region; the next read may succeed again.
        """

    def quickhash(self) -> str | None:
        """A hash over the pixels' storage for formats of many files, where the named file alone says nothing."""

    def close(self) -> None: ...


@dataclass(frozen=True, eq=False)
class Patch:
    """Pixels of one level and where they lie."""

    image: Rgb
    """uint8[H, W, 3]."""
    px0_from_patch: Affine2D
    """A scale and a shift per axis."""


class Levels(Protocol):
    """The part of a slide that windows are read from."""

    @property
    def path(self) -> Path: ...

    @property
    def bounds(self) -> Box: ...

    @property
    def level_scales(self) -> tuple[tuple[float, float], ...]: ...

    def read_patch(self, level: int, x: int, y: int, size: Size) -> Patch: ...
