"""The bytes of a TIFF file: header, directories, values; classic, BigTIFF and Hamamatsu's variant of classic.

TIFF 6.0 specification (Adobe 1992); BigTIFF; in NDPI files the pointer to the next directory has 8 bytes. Image data
is written by the caller as it is produced, the directory after it, so that a slide never has to be in memory.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from typing import BinaryIO

from virtual_stain.errors import OutputError

Value = int | float | str | bytes | Fraction | Sequence[int]

# tag code → field type
SHORT, LONG, RATIONAL, ASCII, FLOAT, SLONG, LONG8 = 3, 4, 5, 2, 11, 9, 16
_SIZES = {SHORT: 2, LONG: 4, RATIONAL: 8, ASCII: 1, FLOAT: 4, SLONG: 4, LONG8: 8}
_CLASSIC_LIMIT = 2**32 - 1


class TiffStream:
    """Little-endian TIFF, written front to back except for the links between directories."""

    def __init__(self, stream: BinaryIO, name: str, *, big: bool = False, ndpi: bool = False) -> None:
        self.stream, self.name, self.big, self.ndpi = stream, name, big, ndpi
        if big:
            stream.write(struct.pack("<2sHHHQ", b"II", 43, 8, 0, 0))
            self._link = 8
        else:
            # 8 bytes for the first directory's place: a classic reader takes the first four of them
            stream.write(struct.pack("<2sHQ", b"II", 42, 0))
            self._link = 4

    def data(self, chunk: bytes) -> int:
        """Writes image data; returns its offset. Raises OutputError where the format cannot address it."""
        offset = self.stream.tell()
        if not self.big and offset + len(chunk) > _CLASSIC_LIMIT:
            raise OutputError(
                f"{self.name}: the slide grows beyond 4 GB, which this format cannot address.",
                hint="Use --format tiff, a smaller --size-mm or a larger pixel size.",
            )
        self.stream.write(chunk)
        return offset

    def directory(self, entries: dict[int, tuple[int, Value]]) -> None:
        """Writes one directory, tag → (type, value), and links it to the one before."""
        body: list[tuple[int, int, int, bytes]] = []
        for tag in sorted(entries):
            kind, value = entries[tag]
            packed = _packed(kind, value)
            body.append((tag, kind, len(packed) // _SIZES[kind], packed))
        room = 8 if self.big else 4
        inline: list[bytes] = []
        for *_, packed in body:
            if len(packed) <= room:
                inline.append(packed.ljust(room, b"\0"))
            else:
                self._align()
                inline.append(struct.pack("<Q" if self.big else "<I", self.data(packed)))
        self._align()
        start = self.stream.tell()
        self.data(struct.pack("<Q" if self.big else "<H", len(body)))
        for (tag, kind, count, _), value_bytes in zip(body, inline, strict=True):
            self.data(struct.pack("<HHQ" if self.big else "<HHI", tag, kind, count) + value_bytes)
        link = self.stream.tell()
        self.data(b"\0" * (8 if self.big or self.ndpi else 4))
        self.stream.seek(self._link)
        self.stream.write(struct.pack("<Q" if self.big or self.ndpi else "<I", start))
        self.stream.seek(0, 2)
        self._link = link

    def _align(self) -> None:
        if self.stream.tell() % 8:
            self.data(b"\0" * (8 - self.stream.tell() % 8))


def _packed(kind: int, value: Value) -> bytes:
    if kind == ASCII:
        text = value if isinstance(value, bytes) else str(value).encode("utf-8")
        return text + b"\0"
    if kind == RATIONAL:
        fraction = Fraction(value).limit_denominator(100_000)  # type: ignore[arg-type]
        return struct.pack("<II", fraction.numerator, fraction.denominator)
    if isinstance(value, (int, float)):
        value = [value]  # type: ignore[list-item]
    code = {SHORT: "H", LONG: "I", FLOAT: "f", SLONG: "i", LONG8: "Q"}[kind]
    assert not isinstance(value, (str, bytes, Fraction))
    return struct.pack(f"<{len(value)}{code}", *value)


def pixels_per_cm(mpp: float) -> Fraction:
    """Resolution tag of a pixel size in µm/px, exact to 1e-9."""
    return Fraction(10_000) / Fraction(mpp).limit_denominator(1_000_000)
