"""A picture that is made tile by tile, as a pyramidal OME-TIFF that QuPath opens.

OME asks for a UUID of the file. It is made of the pixels, the name and the pixel size, so that the same picture gives
the same bytes.
"""

from __future__ import annotations

import hashlib
import math
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile

from virtual_stain.files import replacing
from virtual_stain.geometry import Size
from virtual_stain.progress import QUIET, Progress

TILE_PX = 512
_SMALLEST_PX = 1024  # no level below this
_QUALITY = 88
_NO_UUID = str(uuid.UUID(int=0))  # until all pixels are known; as long as any other


def pyramid_levels(size: Size) -> list[Size]:
    """`size` and its halves, rounded up, until one is small enough to be looked at as a whole."""
    sizes = [size]
    while max(sizes[-1].width, sizes[-1].height) > _SMALLEST_PX:
        sizes.append(Size(math.ceil(sizes[-1].width / 2), math.ceil(sizes[-1].height / 2)))
    return sizes


def tiles_across(length_px: int) -> int:
    """Tiles along a side of a level."""
    return math.ceil(length_px / TILE_PX)


def write_pyramid(
    path: Path,
    name: str,
    levels: Sequence[Size],
    tiles: Iterator[npt.NDArray[np.uint8]],
    level_um_per_px: Sequence[tuple[float, float]] | None,
    progress: Progress = QUIET,
    *,
    facts: Mapping[str, str] = MappingProxyType({}),
    software: str | None = None,
) -> None:
    """Writes `tiles`, uint8[TILE_PX, TILE_PX, 3] RGB, level by level and row by row; none is held.

    `levels`: of `pyramid_levels`. `level_um_per_px`: pixel size along x and y of every level; None: not known.
    `facts`: stand in the OME-XML as a map. `software`: stands in the tag of that name of every level.
    Raises OutputError, and what `tiles` raises; a file that is not whole does not stay.
    """
    counts = [tiles_across(s.width) * tiles_across(s.height) for s in levels]
    tracked = iter(progress.track(tiles, sum(counts), path.name, "tile"))
    digest = hashlib.sha256(repr((name, levels, level_um_per_px, *sorted(facts.items()))).encode())
    metadata: dict[str, Any] = {"axes": "YXS", "Name": name, "UUID": _NO_UUID}
    if level_um_per_px is not None:
        x, y = level_um_per_px[0]
        metadata |= {"PhysicalSizeX": x, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": y, "PhysicalSizeYUnit": "µm"}
    if facts:
        metadata["MapAnnotation"] = dict(facts)
    options: dict[str, Any] = {
        **({} if software is None else {"software": software}),
        "dtype": np.uint8,
        "tile": (TILE_PX, TILE_PX),
        "photometric": "rgb",
        "compression": "jpeg",
        "compressionargs": {"level": _QUALITY},
        "subsampling": (1, 1),
    }

    def following() -> npt.NDArray[np.uint8]:
        tile = next(tracked)
        digest.update(tile.tobytes())
        return tile

    with replacing(path) as temporary:
        with tifffile.TiffWriter(temporary, bigtiff=True, ome=True) as writer:
            for index, level in enumerate(levels):
                writer.write(
                    (following() for _ in range(counts[index])),  # unlike a slice, an error where one is missing
                    shape=(level.height, level.width, 3),
                    metadata=metadata if index == 0 else None,
                    subifds=len(levels) - 1 if index == 0 else None,
                    subfiletype=0 if index == 0 else 1,
                    **_resolution(None if level_um_per_px is None else level_um_per_px[index]),
                    **options,
                )
        _name_by_content(temporary, digest.digest())


def _name_by_content(path: Path, digest: bytes) -> None:
    """Puts the UUID that `digest` gives in the place of the one that stood for it."""
    with tifffile.TiffFile(path, mode="r+") as file:
        description = file.pages.first.tags["ImageDescription"]
        text = description.value.encode()
        description.overwrite(text.replace(_NO_UUID.encode(), str(uuid.UUID(bytes=digest[:16], version=5)).encode()))


def _resolution(um_per_px: tuple[float, float] | None) -> dict[str, Any]:
    if um_per_px is None:
        return {"resolution": (1, 1), "resolutionunit": "NONE"}
    return {"resolution": (1e4 / um_per_px[0], 1e4 / um_per_px[1]), "resolutionunit": "CENTIMETER"}
