"""Slides through OpenSlide: the only module that knows its handles, properties and conventions.

OpenSlide addresses a region in level-0 pixels: it reads level `l` from x0 / downsample on, interpolating linearly
where that is not whole (measured with 4.0.1). `read` therefore reports the position that was really read.
"""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import openslide

from virtual_stain.errors import SlideError
from virtual_stain.geometry import Box, Size
from virtual_stain.slides.companions import named_files
from virtual_stain.slides.dicom_colour import from_ycbcr, ycbcr_called_rgb
from virtual_stain.slides.resolution import MppClaim, um_per_px_from_tags
from virtual_stain.slides.source import Rgb

_MPP_BY_POWER = 10.0  # µm/px times magnification, whatever the scanner
_LEAST_CONTRADICTION = 1.6  # scanners differ by a quarter; half or twice is an error
# formats of several files: the named one is only an index, OpenSlide's own hash covers the rest
_MANY_FILES = ("mirax", "dicom", "trestle")


_LEAVES_OUT = ("mirax", "dicom", "ventana")  # formats that need not hold what the scanner did not take


class CodecError(SlideError):
    """OpenSlide knows the format, but not the codec of its tiles."""


class OpenSlideSource:
    """One file opened with OpenSlide. Not shared between processes: pass `SlideRef` and open again."""

    def __init__(self, path: Path, handle: openslide.OpenSlide) -> None:
        self._path = path
        self._handle: openslide.OpenSlide | None = handle
        properties = dict(handle.properties)
        self.format: str = properties.get("openslide.vendor", "unknown")
        self.level_sizes = tuple(Size(w, h) for w, h in handle.level_dimensions)
        self.downsamples = tuple(float(d) for d in handle.level_downsamples)
        odd_colours = ycbcr_called_rgb(path, properties) if self.format == "dicom" else None
        self.notes: tuple[str, ...] = () if odd_colours is None else (odd_colours,)
        self.warnings: tuple[str, ...] = _doubts_of_power(properties) if self.format == "aperio" else ()
        self._ycbcr = odd_colours is not None
        self.has_holes = self.format in _LEAVES_OUT
        """Whether what is transparent was not taken."""
        self.bounds = _bounds(properties)
        self.claims: tuple[MppClaim, ...] = _claims(properties, self.format)
        self._quickhash = properties.get("openslide.quickhash-1")

    @property
    def generic(self) -> bool:
        """Whether no vendor's rules say which page is the slide and how its samples are meant."""
        return self.format == "generic-tiff"

    def read(self, level: int, x: int, y: int, size: Size) -> tuple[Rgb, float, float]:
        # left of and above the level OpenSlide rounds the region's start towards zero: read what exists only
        left, top = max(-x, 0), max(-y, 0)
        full = self.level_sizes[level]
        inner_width = min(x + size.width, full.width) - (x + left)
        inner_height = min(y + size.height, full.height) - (y + top)
        if inner_width <= 0 or inner_height <= 0:
            return np.full((size.height, size.width, 3), 255, np.uint8), float(x), float(y)
        downsample = self.downsamples[level]
        x0, y0 = round((x + left) * downsample), round((y + top) * downsample)
        image = self._read_region(level, x0, y0, Size(inner_width, inner_height))
        if (inner_width, inner_height) != (size.width, size.height):
            padded = np.full((size.height, size.width, 3), 255, np.uint8)
            padded[top : top + inner_height, left : left + inner_width] = image
            image = padded
        return image, x0 / downsample - left, y0 / downsample - top

    def untaken(self, level: int, box: Box) -> npt.NDArray[np.bool_] | None:
        """bool[h, w] of a box (level-0 px) on a level: pixels that are transparent, since no camera took them; None for
        formats that hold a whole rectangle."""
        if not self.has_holes:
            return None
        downsample = self.downsamples[level]
        size = Size(*(max(1, math.ceil(side / downsample)) for side in (box.width, box.height)))
        return np.asarray(self._rgba(level, round(box.x), round(box.y), size)[..., 3] == 0, np.bool_)

    def _read_region(self, level: int, x0: int, y0: int, size: Size) -> Rgb:
        rgba = self._rgba(level, x0, y0, size)
        if self._ycbcr:
            rgba[..., :3] = from_ycbcr(rgba[..., :3])
        return _on_white(rgba)

    def _rgba(self, level: int, x0: int, y0: int, size: Size) -> npt.NDArray[np.uint8]:
        try:
            image = self._open().read_region((x0, y0), level, (size.width, size.height))
        except openslide.OpenSlideError as error:
            # OpenSlide's handle is dead after its first error; a fresh one can still read other regions
            self.close()
            raise SlideError(
                f"{self._path}: region x={x0} y={y0} (level-0 px), {size.width} × {size.height} px of level {level} "
                f"cannot be read: {error}",
                hint="The file is probably truncated or damaged: copy or scan it again.",
            ) from None
        return np.array(image)

    def quickhash(self) -> str | None:
        return self._quickhash if self.format in _MANY_FILES else None

    def close(self) -> None:
        if self._handle is not None:
            self._handle.close()
            self._handle = None

    def _open(self) -> openslide.OpenSlide:
        if self._handle is None:
            self._handle = openslide.OpenSlide(self._path)
        return self._handle


def is_many_files(path: Path) -> bool:
    """Whether OpenSlide would read other files beside this one, whatever its suffix says. Raises OSError."""
    return bool(named_files(path)) or openslide.OpenSlide.detect_format(path) in _MANY_FILES


def try_openslide(path: Path) -> OpenSlideSource | None:
    """The slide, or None when OpenSlide does not know the format.

    Raises SlideError when OpenSlide knows the format but refuses the file; CodecError where its codec is the reason.
    """
    try:
        return OpenSlideSource(path, openslide.OpenSlide(path))
    except openslide.OpenSlideUnsupportedFormatError:
        return None
    except (openslide.OpenSlideError, ValueError) as error:
        vendor = openslide.OpenSlide.detect_format(path) or "unknown"
        kind = CodecError if "Unsupported TIFF compression" in str(error) else SlideError
        raise kind(
            f"{path}: OpenSlide knows the format ({vendor}) but cannot open the file: {error}",
            hint="The file is damaged or of an unsupported kind; convert it to a tiled pyramidal TIFF.",
        ) from None


def _on_white(rgba: npt.NDArray[np.uint8]) -> Rgb:
    if (rgba.view(np.uint32) >= 0xFF000000).all():  # alpha is the highest byte; four times faster than by channel
        return np.asarray(cv2.cvtColor(rgba, cv2.COLOR_RGBA2RGB), np.uint8)
    a = rgba[..., 3:].astype(np.uint16)
    blended = (rgba[..., :3] * a + 255 * (255 - a) + 127) // 255
    return blended.astype(np.uint8)


def _bounds(properties: dict[str, str]) -> Box | None:
    values = [_number(properties.get(f"openslide.bounds-{name}")) for name in ("x", "y", "width", "height")]
    numbers = [v for v in values if v is not None and math.isfinite(v)]
    if len(numbers) != 4 or min(numbers[2:]) <= 0:
        return None
    return Box(*numbers)


def _claims(properties: dict[str, str], vendor: str) -> tuple[MppClaim, ...]:
    x, y = (_number(properties.get(f"openslide.mpp-{axis}")) for axis in "xy")
    claims = [MppClaim(x, y, "openslide", from_print_tags=vendor == "generic-tiff")]
    unit = {"centimeter": "cm", "inch": "inch"}.get(properties.get("tiff.ResolutionUnit", ""), "none")
    tags = [_number(properties.get(f"tiff.{axis}Resolution")) for axis in "XY"]
    tag_x, tag_y = (None if t is None else um_per_px_from_tags(t, unit) for t in tags)
    if vendor == "dicom":
        claims.append(_volume_claim(properties))
    if vendor != "generic-tiff":  # there OpenSlide's own value is read from the same tags
        claims.append(MppClaim(tag_x, tag_y, "tiff-tags", from_print_tags=True))
    return tuple(claims)


def _volume_claim(properties: dict[str, str]) -> MppClaim:
    """A DICOM header also says how large the imaged part of the glass is, in mm."""
    um_per_px: list[float | None] = []
    for extent, count in (
        ("ImagedVolumeWidth", "TotalPixelMatrixColumns"),
        ("ImagedVolumeHeight", "TotalPixelMatrixRows"),
    ):
        mm, pixels = _number(properties.get(f"dicom.{extent}")), _number(properties.get(f"dicom.{count}"))
        um_per_px.append(mm * 1000 / pixels if mm is not None and pixels else None)
    return MppClaim(um_per_px[0], um_per_px[1], "imaged-volume")


def _doubts_of_power(properties: dict[str, str]) -> tuple[str, ...]:
    """A warning where the apparent magnification and the pixel size of an Aperio file contradict each other."""
    mpp, power = (_number(properties.get(f"openslide.{name}")) for name in ("mpp-x", "objective-power"))
    if mpp is None or power is None or not (mpp > 0 and power > 0):
        return ()
    usual = _MPP_BY_POWER / power
    if max(mpp / usual, usual / mpp) < _LEAST_CONTRADICTION:
        return ()
    return (
        f"pixel size: the file says {mpp:.4g} µm/px and a magnification of {power:g}, at which pixels have about "
        f"{usual:.2g} µm: one of both is wrong. If it is the pixel size, pass the right one with --mpp.",
    )


def _number(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        return float("nan")
