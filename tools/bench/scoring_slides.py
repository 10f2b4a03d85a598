"""Slides to time scoring on: synthetic H&E at 0.25 µm/px, repeated by mirroring until the slide is large enough."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import tifffile

from virtual_stain.config.phantom import PhantomSettings
from virtual_stain.geometry import Size
from virtual_stain.phantom.cohort import write_cohort
from virtual_stain.phantom.ndpi import write_ndpi
from virtual_stain.slides.slide import SlideRef, open_slide

MPP = 0.25
Rgb = npt.NDArray[np.uint8]


def he_picture(size_mm: float = 1.3, seed: int = 3) -> Rgb:
    """uint8[H, W, 3]: the middle of a phantom's H&E section."""
    with tempfile.TemporaryDirectory() as name:
        write_cohort(Path(name), PhantomSettings(size_mm=size_mm, he_mpp=MPP, ihc_mpp=1.0, seed=seed))
        with open_slide(SlideRef(next((Path(name) / "slides").glob("*_he.*")))) as slide:
            width, height = (int(n * 0.7) // 16 * 16 for n in (slide.size.width, slide.size.height))
            x, y = (slide.size.width - width) // 2, (slide.size.height - height) // 2
            return slide.read_level(0, x, y, Size(width, height))


@dataclass(frozen=True, eq=False)
class Mirrored:
    """A picture repeated over a slide of any size; what the NDPI writer asks for."""

    picture: Rgb
    size: Size
    mpp: float = MPP

    def strip(self, top: int, rows: int) -> Rgb:
        height, width = self.picture.shape[:2]
        y, x = (
            np.abs((np.arange(a, b) // n % 2) * (n - 1) - np.arange(a, b) % n)
            for a, b, n in ((top, top + rows, height), (0, self.size.width, width))
        )
        return np.ascontiguousarray(self.picture[y][:, x])

    def strips(self, rows: int) -> Iterator[Rgb]:
        for top in range(0, self.size.height, rows):
            yield self.strip(top, min(rows, self.size.height - top))


def write_jpeg_tiff(path: Path, source: Mirrored, *, tile: int = 256, quality: int = 80) -> Path:
    """A tiled pyramid, JPEG 4:2:0, as scanners and converters write it; levels 1, 4, 16."""
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        for factor in (1, 4, 16):
            writer.write(
                _tiles(source, factor, tile),
                shape=(-(-source.size.height // factor), -(-source.size.width // factor), 3),
                dtype=np.uint8,
                tile=(tile, tile),
                photometric="ycbcr",
                compression="jpeg",
                compressionargs={"level": quality},
                subsampling=(2, 2),
                resolution=(1e4 / source.mpp / factor, 1e4 / source.mpp / factor),
                resolutionunit="CENTIMETER",
                subfiletype=int(factor > 1),
                metadata=None,
            )
    return path


def _tiles(source: Mirrored, factor: int, tile: int) -> Iterator[Rgb]:
    """uint8[tile, tile, 3] row by row, YCbCr: the writer takes the colours as they are."""
    for strip in source.strips(tile * factor):
        part = cv2.cvtColor(np.ascontiguousarray(strip[::factor, ::factor]), cv2.COLOR_RGB2YCrCb)[..., [0, 2, 1]]
        down, right = tile - part.shape[0], -part.shape[1] % tile
        part = np.pad(part, ((0, down), (0, right), (0, 0)), mode="edge")
        for x in range(0, part.shape[1], tile):
            yield np.ascontiguousarray(part[:, x : x + tile])


def write_ndpi_slide(path: Path, source: Mirrored) -> Path:
    """The same as an NDPI."""
    write_ndpi(path, source, 80)
    return path
