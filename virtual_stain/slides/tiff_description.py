"""The description of a TIFF file of any flavour, from its directories alone: no pixel is decoded, but for the range of
values where a sample has more than 8 bits."""

from __future__ import annotations

import contextlib
import logging
import math
import re
import struct
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from virtual_stain.geometry import Size
from virtual_stain.slides.description import LABEL, LEVEL, MACRO, SLIDE, THUMBNAIL, FileDescription, Page, TileTable
from virtual_stain.slides.ndpi_tags import Tags, ndpi_directories
from virtual_stain.slides.resolution import MppClaim, um_per_px_from_tags

_UM_PER_UNIT = {"µm": 1.0, "μm": 1.0, "um": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6, "pm": 1e-6, "Å": 1e-4}
_READ_ERRORS = (
    OSError,
    ArithmeticError,
    ValueError,
    RuntimeError,
    LookupError,
    TypeError,
    SyntaxError,
    EOFError,
    struct.error,
)
_MAX_PAGES = 200
_REDUCED, _MASK, _MACRO = 1, 4, 9  # NewSubfileType; Aperio marks its macro with 9
_SAMPLED_SEGMENTS = 9
_APERIO = re.compile(r"Aperio[^\r\n]*\r?\n([^;|\r\n]*)")
_APERIO_SIZES = re.compile(r"(\d+)x(\d+)(?:\s*\[\s*-?\d+\s*,\s*-?\d+\s+(\d+)x(\d+)\s*\])?[^>]*?->\s*(\d+)x(\d+)")


def is_tiff(path: Path) -> bool:
    """By its first bytes. Raises OSError."""
    with path.open("rb") as stream:
        start = stream.read(4)
    return start[:2] in (b"II", b"MM") and start[2:4] in (b"*\0", b"\0*", b"+\0", b"\0+")


def describe_tiff(path: Path) -> FileDescription | None:
    """None for a file that is no TIFF, or whose directories cannot be read. Raises OSError."""
    if not is_tiff(path):
        return None
    try:
        if path.suffix.lower() == ".ndpi":
            ndpi = tuple(_ndpi_page(i, t) for i, t in enumerate(ndpi_directories(path)))
            return FileDescription(path, ndpi, ()) if ndpi else None
        with _quiet(), tifffile.TiffFile(path) as file:
            found = [file.pages[i] for i in range(min(len(file.pages), _MAX_PAGES))]
            pages = tuple(_page(i, page.aspage()) for i, page in enumerate(found))
            description = FileDescription(path, pages, ())
            chosen: Any = file.pages[description.slide_page.index].aspage()
            size = description.slide_page.size
            claims = [] if file.ome_metadata is None else ome_claims(file.ome_metadata, size)
            claims.append(_tag_claim(chosen))
            resized = _resized(str(chosen.description or ""), size)
            return FileDescription(path, pages, tuple(claims), resized)
    except _READ_ERRORS:
        return None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without tifffile's log of what it finds odd about a file: what matters of it is refused or told."""
    log = logging.getLogger("tifffile")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


def _ndpi_page(index: int, tags: Tags) -> Page:
    """tifffile looks for the high halves of places where older files have none, so NDPI has a reader of its own."""
    size = Size(int(tags[256][0]), int(tags[257][0]))
    bits = {int(b) for b in tags.get(258, ())} or {1}
    photometric = int(tags[262][0]) if 262 in tags else 2
    return Page(
        index=index,
        size=size,
        tile=None,
        kind=SLIDE if index == 0 else LEVEL,
        photometric=tifffile.PHOTOMETRIC(photometric).name,
        dtype="uint8" if bits == {8} else f"{max(bits)} bits",
        samples=int(tags[277][0]) if 277 in tags else 1,
        extra=(),
        orientation=int(tags[274][0]) if 274 in tags else 1,
        um_per_px=None,
        table=TileTable(size, np.zeros((1, 1), np.bool_)),
    )


def _page(index: int, page: Any) -> Page:
    size = Size(int(page.imagewidth), int(page.imagelength))
    tiled = bool(page.is_tiled and page.tilewidth and page.tilelength)
    tile = Size(int(page.tilewidth), int(page.tilelength)) if tiled else None
    bits = page.bitspersample if isinstance(page.bitspersample, int) else max(page.bitspersample)
    claim = _tag_claim(page)
    known = claim.x is not None and claim.y is not None and math.isfinite(claim.x) and math.isfinite(claim.y)
    return Page(
        index=index,
        size=size,
        tile=tile,
        kind=_kind(index, page),
        photometric=str(getattr(page.photometric, "name", page.photometric)),
        dtype=str(page.dtype) if page.dtype is not None else f"{bits} bits",
        samples=int(page.samplesperpixel),
        extra=tuple(int(e) for e in page.extrasamples or ()),
        orientation=int(page.tags.valueof("Orientation", 1)),
        um_per_px=(float(claim.x), float(claim.y)) if known else None,  # type: ignore[arg-type]
        table=_table(page, size, tile),
    )


def with_range(path: Path, page: Page) -> Page:
    """The page with the largest value of some of its pixels, which tells 12 bits in 16 from 16. Raises OSError."""
    try:
        with _quiet(), tifffile.TiffFile(path) as file:
            return replace(page, largest_value=_largest_value(file, file.pages[page.index].aspage()))
    except _READ_ERRORS:
        return page


def _kind(index: int, page: Any) -> str:
    """By the page's own words, then by its flags; a page without either is taken for a slide."""
    text = " ".join(str(page.description or "")[:300].lower().split())
    told = re.search(r"\b(label|macro|thumbnail)\b", text) if not text.startswith("<") else None
    flags = int(page.subfiletype)
    if told:
        return {"label": LABEL, "macro": MACRO, "thumbnail": THUMBNAIL}[told[1]]
    if flags == _MACRO or flags & _MASK:
        return MACRO
    if flags & _REDUCED:
        return THUMBNAIL if index == 0 else LEVEL
    return SLIDE


def _table(page: Any, size: Size, tile: Size | None) -> TileTable:
    """Of tiles; strips are as wide as the page."""
    if tile is None:
        tile = Size(size.width, min(size.height, int(page.rowsperstrip or size.height)))
    rows, columns = -(-size.height // tile.height), -(-size.width // tile.width)
    counts, offsets = np.asarray(page.databytecounts, np.int64), np.asarray(page.dataoffsets, np.int64)
    if len(counts) < rows * columns or len(offsets) != len(counts):
        return TileTable(tile, np.zeros((1, 1), np.bool_))
    lacking = (counts == 0) | (offsets == 0)
    planes = lacking[: len(lacking) // (rows * columns) * rows * columns].reshape(-1, rows, columns)
    return TileTable(tile, np.asarray(planes.any(axis=0), np.bool_))


def _largest_value(file: tifffile.TiffFile, page: Any) -> int | None:
    """Of some tiles or strips all over the page."""
    n = len(page.databytecounts)
    largest: int | None = None
    for index in sorted({round(i * (n - 1) / (_SAMPLED_SEGMENTS - 1)) for i in range(_SAMPLED_SEGMENTS)}):
        if not page.databytecounts[index]:
            continue
        try:
            file.filehandle.seek(page.dataoffsets[index])
            data = page.decode(file.filehandle.read(page.databytecounts[index]), index, jpegtables=page.jpegtables)[0]
        except _READ_ERRORS:
            return largest
        if data is not None and data.size:
            largest = max(largest or 0, int(data.max()))
    return largest


def _tag_claim(page: Any) -> MppClaim:
    unit = {2: "inch", 3: "cm"}.get(int(page.tags.valueof("ResolutionUnit", 2)), "none")
    values = [_rational(page.tags.valueof(name)) for name in ("XResolution", "YResolution")]
    x, y = (None if v is None else um_per_px_from_tags(v, unit) for v in values)
    return MppClaim(x, y, "tiff-tags", from_print_tags=True)


def ome_claims(xml: str, size: Size) -> list[MppClaim]:
    """PhysicalSizeX/Y of the first image of that size, else of the first; entity declarations are refused."""
    if re.search(r"<!(DOCTYPE|ENTITY)", xml):
        return []
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError:
        return []
    images = root.findall(".//{*}Pixels")
    if not images:
        return []
    wanted = str(size.width), str(size.height)
    pixels = next((p for p in images if (p.get("SizeX"), p.get("SizeY")) == wanted), images[0])
    values: list[float | None] = []
    for axis in "XY":
        text = pixels.get(f"PhysicalSize{axis}")
        unit = _UM_PER_UNIT.get(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
        try:
            values.append(None if text is None or unit is None else float(text) * unit)
        except ValueError:
            values.append(math.nan)
    return [MppClaim(values[0], values[1], "ome-xml")]


def _resized(text: str, size: Size) -> tuple[Size, Size] | None:
    """Size before and after, by the newest entry of an Aperio description ("WxH [x,y wxh] (256x256) -> WxH").

    None where it tells of no change of size, or of one to another size than the page has.
    """
    entry = _APERIO.search(text)
    told = _APERIO_SIZES.search(entry[1]) if entry else None
    if told is None:
        return None
    width, height = (told[3], told[4]) if told[3] else (told[1], told[2])
    before, after = Size(int(width), int(height)), Size(int(told[5]), int(told[6]))
    return (before, after) if after == size and before != after else None


def _rational(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, tuple):
        return float(value[0]) / float(value[1]) if value[1] else math.nan
    return float(value)
