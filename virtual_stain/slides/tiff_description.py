"""The description of a TIFF file of any flavour, from its directories alone: no pixel is decoded, but for the range of
values where a sample has more than 8 bits."""

from __future__ import annotations

import math
import re
import struct
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from virtual_stain.geometry import Size
from virtual_stain.slides.description import LABEL, LEVEL, MACRO, SLIDE, THUMBNAIL, FileDescription, Page, TileTable
from virtual_stain.slides.jpeg_colour import declared_colour
from virtual_stain.slides.ndpi_tags import Tags, ndpi_directories
from virtual_stain.slides.resolution import MppClaim, um_per_px_from_tags
from virtual_stain.slides.tiff_pages import quiet, tiff_pages
from virtual_stain.slides.virtual_mark import is_virtual

_UM_PER_UNIT = {
    **{"µm": 1.0, "μm": 1.0, "um": 1.0, "pm": 1e-6, "Å": 1e-4, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "dm": 1e5, "m": 1e6},
    **{"in": 25_400.0, "li": 25_400.0 / 12, "pt": 25_400.0 / 72, "thou": 25.4, "mil": 25.4},
}
_IMAGEJ_UNITS = {
    **{"um": 1.0, "micron": 1.0, "microns": 1.0, "micrometer": 1.0, "micrometers": 1.0, "?m": 1.0},
    **{"nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6, "inch": 25_400.0},
}
_TAG_UNITS = {2: "inch", 3: "cm", 4: "mm", 5: "µm"}  # the last two are no standard, but written and meant
READ_ERRORS = (
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
"""What the libraries that read pictures raise of a damaged file."""
_REDUCED, _MASK, _MACRO = 1, 4, 9  # NewSubfileType; Aperio marks its macro with 9
_SAMPLED_SEGMENTS = 9
_JPEG, _JPEG_HEADER_BYTES = (6, 7), 4096
_APERIO = re.compile(r"Aperio[^\r\n]*\r?\n([^;|\r\n]*)")
_APERIO_SIZES = re.compile(r"(\d+)x(\d+)(?:\s*\[\s*-?\d+\s*,\s*-?\d+\s+(\d+)x(\d+)\s*\])?[^>]*?->\s*(\d+)x(\d+)")
_APERIO_SIZE = re.compile(r"(\d+)x(\d+)(?:\s*\[\s*-?\d+\s*,\s*-?\d+\s+(\d+)x(\d+)\s*\])?")
_SAME_ASPECT_FRACTION = 0.02  # rounding of small pictures
_LEAST_RESIZED = 1.05  # what is cut off at the edges is less


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
        with quiet(), tifffile.TiffFile(path) as file:
            found = tiff_pages(file)
            pages = tuple(_page(i, page.aspage()) for i, page in enumerate(found))
            description = FileDescription(path, pages, ())
            chosen: Any = file.pages[description.slide_page.index].aspage()
            size = description.slide_page.size
            xml = file.ome_metadata
            claims, remarks, of_ome = ([], (), None) if xml is None else ome_claims(xml, size)
            claims += [*_imagej_claims(file, chosen), _tag_claim(chosen)]
            resized, of_aperio = _resized(str(chosen.description or ""), size)
            virtual = is_virtual([xml, *(text for page in found for text in _texts(page.aspage()))])
            return FileDescription(path, pages, tuple(claims), remarks, of_aperio or of_ome, resized, virtual)
    except READ_ERRORS:
        return None


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
        jpeg=int(page.compression) in _JPEG,
        stream_colour=_stream_colour(page),
    )


def _stream_colour(page: Any) -> str | None:
    """By the first JPEG tile or strip that was written."""
    if int(page.compression) not in _JPEG:
        return None
    for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False):
        if offset and count:
            page.parent.filehandle.seek(offset)
            return declared_colour(page.parent.filehandle.read(min(count, _JPEG_HEADER_BYTES)))
    return None


def with_range(path: Path, page: Page) -> Page:
    """The page with the largest value of some of its pixels, which tells 12 bits in 16 from 16. Raises OSError."""
    try:
        with quiet(), tifffile.TiffFile(path) as file:
            return replace(page, largest_value=_largest_value(file, file.pages[page.index].aspage()))
    except READ_ERRORS:
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


def _texts(page: Any) -> tuple[object, object]:
    return page.description, page.tags.valueof("Software")


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
        except READ_ERRORS:
            return largest
        if data is not None and data.size:
            largest = max(largest or 0, int(data.max()))
    return largest


def _tag_claim(page: Any) -> MppClaim:
    stated = page.tags.valueof("ResolutionUnit")
    unit = _TAG_UNITS.get(2 if stated is None else int(stated), "none")
    values = [_rational(page.tags.valueof(name)) for name in ("XResolution", "YResolution")]
    x, y = (None if v is None else um_per_px_from_tags(v, unit) for v in values)
    return MppClaim(x, y, "tiff-tags", from_print_tags=True, unit_assumed=stated is None)


def _imagej_claims(file: tifffile.TiffFile, page: Any) -> list[MppClaim]:
    """ImageJ writes pixels per unit into the tags, and the unit's name into the description."""
    told = file.imagej_metadata
    name = str(told.get("unit", "")).encode("ascii", "replace").decode() if told else ""
    unit = _IMAGEJ_UNITS.get(name.replace("\\u00B5", "u").lower())
    values = [_rational(page.tags.valueof(axis)) for axis in ("XResolution", "YResolution")]
    if unit is None or not all(v is not None and math.isfinite(v) and v > 0 for v in values):
        return []
    x, y = (unit / v for v in values if v is not None)
    return [MppClaim(x, y, "imagej")]


def ome_claims(xml: str, size: Size) -> tuple[list[MppClaim], tuple[str, ...], Size | None]:
    """PhysicalSizeX/Y of the images of that size, remarks, and the size of the only image where it is another.

    Entity declarations are refused.
    """
    if re.search(r"<!(DOCTYPE|ENTITY)", xml):
        return [], ("its OME-XML declares entities: ignored",), None
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError:
        return [], ("its OME-XML cannot be read: ignored",), None
    images = root.findall(".//{*}Pixels")
    wanted = str(size.width), str(size.height)
    found = [p for p in images if (p.get("SizeX"), p.get("SizeY")) == wanted]
    if not found and len(images) > 1:
        return [], ("its OME-XML tells of several images and of none of this size: ignored",), None
    if not images:
        return [], (), None
    pixels = found or images[:1]
    claims, strange = [], []
    for each in pixels:  # several of one size may contradict each other
        claim, odd = _physical_size(each)
        claims.append(claim)
        strange += odd
    return list(dict.fromkeys(claims)), tuple(dict.fromkeys(strange)), _other_size(pixels[0], size)


def _physical_size(pixels: ElementTree.Element) -> tuple[MppClaim, list[str]]:
    values: list[float | None] = []
    strange = []
    for axis in "XY":
        text = pixels.get(f"PhysicalSize{axis}")
        name = pixels.get(f"PhysicalSize{axis}Unit", "µm")
        unit = _UM_PER_UNIT.get(name)
        if text is not None and unit is None:
            strange.append(f"its OME-XML gives the pixel size in {name[:40]!r}, which is no known length: ignored")
        try:
            values.append(None if text is None or unit is None else float(text) * unit)
        except ValueError:
            values.append(math.nan)
    return MppClaim(values[0], values[1], "ome-xml"), strange


def _other_size(pixels: ElementTree.Element, size: Size) -> Size | None:
    try:
        told = Size(int(pixels.get("SizeX", "")), int(pixels.get("SizeY", "")))
    except ValueError:
        return None
    return _if_scaled(told, size)


def _if_scaled(told: Size, size: Size) -> Size | None:
    """The size that a description tells of, where the page looks like the same picture made smaller or larger."""
    x, y = told.width / size.width, told.height / size.height
    alike = abs(x / y - 1) < _SAME_ASPECT_FRACTION
    return told if alike and max(x, 1 / x) > _LEAST_RESIZED else None


def _resized(text: str, size: Size) -> tuple[tuple[Size, Size] | None, Size | None]:
    """Size before and after, by the newest entry of an Aperio description ("WxH [x,y wxh] (256x256) -> WxH"); and the
    size that it tells of, where that is another than the page's and nothing says why.

    None where it tells of no change of size, or of one to another size than the page has.
    """
    entry = _APERIO.search(text)
    if entry is None:
        return None, None
    told = _APERIO_SIZES.search(entry[1])
    if told is None:
        plain = _APERIO_SIZE.match(entry[1].strip())
        if plain is None:
            return None, None
        width, height = (plain[3], plain[4]) if plain[3] else (plain[1], plain[2])
        return None, _if_scaled(Size(int(width), int(height)), size)
    width, height = (told[3], told[4]) if told[3] else (told[1], told[2])
    before, after = Size(int(width), int(height)), Size(int(told[5]), int(told[6]))
    if after != size:
        return None, _if_scaled(after, size)
    return ((before, after) if before != after else None), None


def _rational(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, tuple):
        return float(value[0]) / float(value[1]) if value[1] else math.nan
    return float(value)
