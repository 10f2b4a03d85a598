"""The directories of an NDPI file: TIFF with 64-bit places in 32-bit fields.

The place of the next directory has 8 bytes. All other places keep their low 32 bits; values and pixels stand before the
directory that names them, which tells the high half. (Newer files repeat the high halves behind the directory, older
ones do not, so that area is not read.)
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

_TYPES = {3: "<u2", 4: "<u4"}  # SHORT, LONG; nothing else is needed here
_MAX_DIRECTORIES, _MAX_ENTRIES, _MAX_VALUES = 200, 1000, 50_000_000
PLACES = (273,)
"""Tags whose value is itself a place in the file: StripOffsets."""

Tags = dict[int, npt.NDArray[np.int64]]


def ndpi_directories(path: Path) -> Iterator[Tags]:
    """The integer tags of every directory, in the order of the file. Raises OSError, ValueError, struct.error."""
    end = path.stat().st_size
    with path.open("rb") as stream:
        start = stream.read(12)
        if start[:4] != b"II*\0":
            raise ValueError("Expected a little-endian TIFF.")
        (place,) = struct.unpack("<Q", start[4:12])
        seen: set[int] = set()
        while place and place not in seen and place < end and len(seen) < _MAX_DIRECTORIES:
            seen.add(place)
            tags, place = _directory(stream, place)
            yield tags


def _directory(stream: BinaryIO, place: int) -> tuple[Tags, int]:
    stream.seek(place)
    (count,) = struct.unpack("<H", stream.read(2))
    if count > _MAX_ENTRIES:
        raise ValueError(f"Expected at most {_MAX_ENTRIES} entries. Received: {count}")
    entries = stream.read(12 * count)
    (following,) = struct.unpack("<Q", stream.read(8))
    tags: Tags = {}
    for i in range(count):
        tag, kind, number, value = struct.unpack("<HHI4s", entries[12 * i : 12 * i + 12])
        if kind in _TYPES and 0 < number <= _MAX_VALUES:
            tags[tag] = _values(stream, place, _TYPES[kind], number, value)
            if tag in PLACES:
                tags[tag] = np.array([_full(place, int(v)) for v in tags[tag]], np.int64)
    return tags, following


def _values(stream: BinaryIO, directory: int, dtype: str, number: int, value: bytes) -> npt.NDArray[np.int64]:
    width = np.dtype(dtype).itemsize
    data: Any = value[: number * width]
    if number * width > 4:
        stream.seek(_full(directory, struct.unpack("<I", value)[0]))
        data = stream.read(number * width)
    return np.frombuffer(data, dtype, number).astype(np.int64)


def _full(directory: int, low: int) -> int:
    """The place before `directory` that ends in these 32 bits."""
    place = (directory >> 32 << 32) | low
    return place - 2**32 if place >= directory and place >= 2**32 else place
