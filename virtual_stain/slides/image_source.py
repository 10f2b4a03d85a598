"""Plain images as slides: JPEG, PNG, BMP, and TIFF files that OpenSlide refuses (striped, or JPEG-tiled OME-TIFF).

The image is decoded on the first read and kept in memory, so its size is limited; opening reads the header only.
"""

from __future__ import annotations

import math
import re
import warnings
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from virtual_stain.errors import SlideError
from virtual_stain.geometry import Box, Size
from virtual_stain.slides.resolution import MppClaim, um_per_px_from_tags
from virtual_stain.slides.source import Rgb

MAX_IMAGE_MEGAPIXELS = 256.0
"""Largest image that is taken whole into memory (3 bytes a pixel); more needs a tiled TIFF."""
_UM_PER_UNIT = {"µm": 1.0, "μm": 1.0, "um": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6, "pm": 1e-6, "Å": 1e-4}
_UNREADABLE = (OSError, ValueError, RuntimeError, KeyError, IndexError, TypeError, SyntaxError, EOFError)
_CONVERT = "Convert it to an 8-bit RGB image or a tiled pyramidal TIFF."


class ImageSource:
    """One plain image with a single level."""

    def __init__(
        self, path: Path, kind: str, size: Size, claims: tuple[MppClaim, ...], notes: tuple[str, ...] = ()
    ) -> None:
        self._path = path
        self._tiff = kind == "tiff"
        self.format = f"image/{kind}"
        self.level_sizes = (size,)
        self.bounds: Box | None = None
        self.claims = claims
        self.notes = notes
        self._pixels: Rgb | None = None

    def read(self, level: int, x: int, y: int, size: Size) -> tuple[Rgb, float, float]:
        if level != 0:
            raise ValueError(f"Expected level 0. Received: {level}")
        if self._pixels is None:
            self._pixels = self._decode(x, y, size)
        full = self.level_sizes[0]
        x0, y0 = max(x, 0), max(y, 0)
        x1, y1 = min(x + size.width, full.width), min(y + size.height, full.height)
        if (x0, y0, x1, y1) == (x, y, x + size.width, y + size.height):
            return self._pixels[y0:y1, x0:x1].copy(), float(x), float(y)
        image = np.full((size.height, size.width, 3), 255, np.uint8)
        if x1 > x0 and y1 > y0:
            image[y0 - y : y1 - y, x0 - x : x1 - x] = self._pixels[y0:y1, x0:x1]
        return image, float(x), float(y)

    def quickhash(self) -> str | None:
        return None

    def close(self) -> None:
        self._pixels = None

    def _decode(self, x: int, y: int, size: Size) -> Rgb:
        try:
            pixels = _decode_tiff(self._path) if self._tiff else _decode_image(self._path)
        except _UNREADABLE as error:
            codec = "imagecodecs" in str(error)
            raise SlideError(
                f"{self._path}: region x={x} y={y}, {size.width} × {size.height} px cannot be read: {error}",
                hint="pip install imagecodecs"
                if codec
                else "The file is probably truncated or damaged: copy it again.",
            ) from None
        full = self.level_sizes[0]
        if pixels.shape != (full.height, full.width, 3):
            raise SlideError(
                f"{self._path}: expected {full.width} × {full.height} px RGB, as its header says. "
                f"Received: an array of shape {pixels.shape}"
            )
        return pixels


def try_image(path: Path) -> ImageSource | None:
    """The image as a slide, or None when it is no image at all.

    Raises SlideError for images that cannot be slides: too large, 16 bit, grey, CMYK.
    """
    with path.open("rb") as stream:
        start = stream.read(4)
    if start[:2] in (b"II", b"MM") and start[2:4] in (b"*\0", b"\0*", b"+\0", b"\0+"):
        return _open_tiff(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is ours
            with Image.open(path) as image:
                mode, size, kind = image.mode, image.size, (image.format or "unknown").lower()
                turned = image.getexif().get(0x0112, 1) not in (0, 1)
    except UnidentifiedImageError:
        return None
    except Image.DecompressionBombError:
        raise SlideError(
            f"{path}: expected at most {MAX_IMAGE_MEGAPIXELS:g} megapixels in a plain image.", hint=_CONVERT
        ) from None
    except _UNREADABLE as error:
        raise SlideError(f"{path}: the image's header cannot be read: {error}") from None
    if mode not in ("RGB", "RGBA", "P"):
        raise SlideError(f"{path}: expected an 8-bit RGB image. Received: {kind} of mode {mode}.", hint=_CONVERT)
    _check_size(path, *size)
    notes: tuple[str, ...] = ("a JPEG or PNG file states no pixel size",)
    if turned:
        notes += ("its EXIF orientation is not applied: coordinates count the pixels as stored",)
    return ImageSource(path, kind, Size(*size), (), notes)


def _check_size(path: Path, width: int, height: int) -> None:
    if width * height > MAX_IMAGE_MEGAPIXELS * 1e6:
        raise SlideError(
            f"{path}: expected at most {MAX_IMAGE_MEGAPIXELS:g} megapixels in an image that must be decoded whole. "
            f"Received: {width} × {height} px",
            hint="Convert it to a tiled pyramidal TIFF, which is read in parts.",
        )


def _decode_image(path: Path) -> Rgb:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(path) as image:
            if image.mode == "RGB":
                return np.array(image)
            rgba = image.convert("RGBA")
            white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
            return np.array(Image.alpha_composite(white, rgba).convert("RGB"))


def _open_tiff(path: Path) -> ImageSource:
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            page = file.pages.first
            width, height = int(page.imagewidth), int(page.imagelength)
            dtype, samples = str(page.dtype), int(page.samplesperpixel)
            photometric = str(getattr(page.photometric, "name", page.photometric))
            claims = _tiff_claims(page, file.ome_metadata)
    except _UNREADABLE as error:
        raise SlideError(f"{path}: the TIFF's header cannot be read: {error}", hint=_CONVERT) from None
    if dtype != "uint8" or samples not in (3, 4) or photometric not in ("RGB", "YCBCR"):
        raise SlideError(
            f"{path}: expected an 8-bit RGB image. Received: TIFF of {dtype} with {samples} channel(s), {photometric}.",
            hint=_CONVERT,
        )
    _check_size(path, width, height)
    notes = () if any(c.x is not None for c in claims) else ("its TIFF resolution tags name no unit of length",)
    return ImageSource(path, "tiff", Size(width, height), claims, notes)


def _decode_tiff(path: Path) -> Rgb:
    import tifffile

    with tifffile.TiffFile(path) as file:
        page: Any = file.pages.first
        _check_complete(page, path.stat().st_size)
        pixels = page.asarray()
        if page.planarconfig == 2 and pixels.shape[0] in (3, 4):
            pixels = np.moveaxis(pixels, 0, -1)
        if pixels.shape[-1] == 4:
            alpha = pixels[..., 3:].astype(np.uint16)
            pixels = ((pixels[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    return np.ascontiguousarray(pixels)


def _check_complete(page: Any, file_bytes: int) -> None:
    # tifffile fills tiles that are not there with zeros: black tissue would be read from a truncated file
    for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
        if count and offset + count > file_bytes:
            raise ValueError(f"the file ends at byte {file_bytes}, its pixels at {offset + count}")


def _tiff_claims(page: Any, ome_xml: str | None) -> tuple[MppClaim, ...]:
    claims = [] if ome_xml is None else _ome_claims(ome_xml)
    unit = {2: "inch", 3: "cm"}.get(int(page.tags.valueof("ResolutionUnit", 2)), "none")
    values = [_rational(page.tags.valueof(name)) for name in ("XResolution", "YResolution")]
    x, y = (None if v is None else um_per_px_from_tags(v, unit) for v in values)
    claims.append(MppClaim(x, y, "tiff-tags", from_print_tags=True))
    return tuple(claims)


def _ome_claims(xml: str) -> list[MppClaim]:
    """PhysicalSizeX/Y of the first image; entity declarations are refused rather than expanded."""
    if re.search(r"<!(DOCTYPE|ENTITY)", xml):
        return []
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError:
        return []
    pixels = root.find(".//{*}Pixels")
    if pixels is None:
        return []
    values: list[float | None] = []
    for axis in "XY":
        text = pixels.get(f"PhysicalSize{axis}")
        unit = _UM_PER_UNIT.get(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
        try:
            values.append(None if text is None or unit is None else float(text) * unit)
        except ValueError:
            values.append(math.nan)
    return [MppClaim(values[0], values[1], "ome-xml")]


def _rational(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, tuple):
        return float(value[0]) / float(value[1]) if value[1] else math.nan
    return float(value)
