"""Plain images as slides: JPEG, PNG, BMP, and TIFF files that OpenSlide refuses (striped, or JPEG-tiled OME-TIFF).

The image is decoded on the first read and kept in memory, so its size is limited; opening reads the header only.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from virtual_stain.errors import SlideError
from virtual_stain.geometry import Box, Size
from virtual_stain.slides.damage import jpeg_problem
from virtual_stain.slides.description import FileDescription, Page, require_decodable
from virtual_stain.slides.resolution import MppClaim
from virtual_stain.slides.source import Rgb
from virtual_stain.slides.tiff_description import READ_ERRORS, is_tiff
from virtual_stain.slides.tiff_pages import quiet

MAX_IMAGE_MEGAPIXELS = 256.0
"""Largest image that is taken whole into memory (3 bytes a pixel); more needs a tiled TIFF."""
Clear = npt.NDArray[np.bool_] | None
_CONVERT = "Convert it to an 8-bit RGB image or a tiled pyramidal TIFF."


class ImageSource:
    """One plain image with a single level."""

    def __init__(
        self,
        path: Path,
        kind: str,
        size: Size,
        claims: tuple[MppClaim, ...],
        notes: tuple[str, ...] = (),
        page: Page | None = None,
        warnings: tuple[str, ...] = (),
    ) -> None:
        self._path = path
        self._page = page
        self.format = f"image/{kind}"
        self.level_sizes = (size,)
        self.bounds: Box | None = None
        self.claims = claims
        self.notes, self.warnings = notes, warnings
        self._pixels: Rgb | None = None
        self._clear: npt.NDArray[np.bool_] | None = None

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

    def untaken(self, level: int, box: Box) -> npt.NDArray[np.bool_] | None:
        """bool[h, w] of a box (px): pixels that are transparent, since no camera took them; None: there are none."""
        if self._pixels is None:
            self.read(level, int(box.x), int(box.y), Size(1, 1))
        if self._clear is None:
            return None
        rows = slice(int(box.y), max(int(box.y) + 1, round(box.y1)))
        return self._clear[rows, int(box.x) : max(int(box.x) + 1, round(box.x1))]

    def quickhash(self) -> str | None:
        return None

    def close(self) -> None:
        self._pixels = None

    def _decode(self, x: int, y: int, size: Size) -> Rgb:
        try:
            decoded = _decode_image(self._path) if self._page is None else _decode_tiff(self._path, self._page)
        except READ_ERRORS as error:
            codec = "imagecodecs" in str(error)
            raise SlideError(
                f"{self._path}: region x={x} y={y}, {size.width} × {size.height} px cannot be read: {error}",
                hint="pip install imagecodecs"
                if codec
                else "The file is probably truncated or damaged: copy it again.",
            ) from None
        pixels, self._clear = decoded
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
    if is_tiff(path):
        hint = f"Perhaps it was cut off while it was copied: copy it again. If it opens elsewhere: {_CONVERT}"
        raise SlideError(f"{path}: the TIFF's header cannot be read.", hint=hint)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is ours
            with Image.open(path) as image:
                mode, size, kind = image.mode, image.size, (image.format or "unknown").lower()
                deep = any(";16" in str(part[-1]) for part in image.tile)  # before EXIF, for which a PNG is decoded
                turned = image.getexif().get(0x0112, 1)
    except UnidentifiedImageError:
        return None
    except Image.DecompressionBombError:
        raise SlideError(
            f"{path}: expected at most {MAX_IMAGE_MEGAPIXELS:g} megapixels in a plain image.", hint=_CONVERT
        ) from None
    except READ_ERRORS as error:
        raise SlideError(f"{path}: the image's header cannot be read: {error}") from None
    if mode not in ("RGB", "RGBA", "P"):
        raise SlideError(f"{path}: expected an 8-bit RGB image. Received: {kind} of mode {mode}.", hint=_CONVERT)
    if deep:
        raise SlideError(
            f"{path}: expected an 8-bit RGB image. Received: {kind} of 16 bits a sample.",
            hint="Scale its values to 0–255 and write 8 bits a sample: how bright white is only its maker knows.",
        )
    _check_size(path, *size)
    notes = ("a JPEG or PNG file states no pixel size",)
    odd: tuple[str, ...] = ()
    if turned not in (0, 1):
        odd += (
            f"pixels: stored turned or mirrored (EXIF orientation {turned}): they are read and counted as stored, so "
            "positions are not where a viewer that turns them shows them",
        )
    if mode == "P":
        odd += ("pixels: a palette of at most 256 colours: stains are told apart less well than in the original",)
    return ImageSource(path, kind, Size(*size), (), notes, warnings=odd)


def _check_size(path: Path, width: int, height: int, page: int = 0) -> None:
    if width * height > MAX_IMAGE_MEGAPIXELS * 1e6:
        raise SlideError(
            f"{path}: expected at most {MAX_IMAGE_MEGAPIXELS:g} megapixels in an image that must be decoded whole. "
            f"Received: {width} × {height} px" + (f" (page {page})" if page else ""),
            hint="Convert it to a tiled pyramidal TIFF, which is read in parts.",
        )


def _decode_image(path: Path) -> tuple[Rgb, Clear]:
    """The pixels on white, and where they are transparent (None: nowhere)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(path) as image:
            problem = jpeg_problem(path.read_bytes()) if image.format == "JPEG" else None
            if problem is not None:
                raise ValueError(problem)
            if image.mode == "RGB":
                return np.array(image), None
            rgba = image.convert("RGBA")
            white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
            clear = np.asarray(rgba.getchannel("A")) == 0
            return np.array(Image.alpha_composite(white, rgba).convert("RGB")), clear if clear.any() else None


def open_page(description: FileDescription, page: Page) -> ImageSource:
    """One page of a TIFF, decoded whole, whatever its codec. Raises SlideError where it is too large for that."""
    path, claims = description.path, description.claims
    require_decodable(path, page)
    _check_size(path, page.size.width, page.size.height, page.index)
    notes = () if any(c.x is not None for c in claims) else ("its TIFF resolution tags name no unit of length",)
    return ImageSource(path, "tiff", page.size, claims, notes, page)


def _decode_tiff(path: Path, page: Page) -> tuple[Rgb, Clear]:
    import tifffile

    with quiet(), tifffile.TiffFile(path) as file:
        found: Any = file.pages[page.index].aspage()
        _check_complete(found, path.stat().st_size)
        pixels = found.asarray()
        if found.planarconfig == 2 and pixels.shape[0] in (3, 4):
            pixels = np.moveaxis(pixels, 0, -1)
        clear = pixels[..., 3] == 0 if page.opacity and pixels.shape[-1] == 4 else None
        if pixels.shape[-1] == 4:
            pixels = _blended(pixels, page.extra[0]) if page.opacity else pixels[..., :3]
    pixels = np.ascontiguousarray(pixels)
    tile, missing = page.table.tile, page.table.missing
    for row, column in np.argwhere(missing).tolist():  # tifffile fills them with zeros
        pixels[row * tile.height : (row + 1) * tile.height, column * tile.width : (column + 1) * tile.width] = 255
    return pixels, clear


def _blended(pixels: npt.NDArray[np.uint8], meaning: int) -> Rgb:
    """RGBA uint8[H, W, 4] on white. `meaning` 1: the colours are multiplied by the opacity already; 2: they are not."""
    alpha = pixels[..., 3:].astype(np.uint16)
    colour = pixels[..., :3] if meaning == 1 else (pixels[..., :3] * alpha + 127) // 255
    return np.minimum(colour + (255 - alpha), 255).astype(np.uint8)


def _check_complete(page: Any, file_bytes: int) -> None:
    # tifffile fills tiles that are not there with zeros: black tissue would be read from a truncated file
    for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
        if count and offset + count > file_bytes:
            raise ValueError(f"the file ends at byte {file_bytes}, its pixels at {offset + count}")
