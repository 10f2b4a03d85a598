"""The colour of empty glass, from the image itself."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from virtual_stain.counting.optical_density import Vector

U8 = npt.NDArray[np.uint8]

NO_GLASS = "background_from_brightest_tissue"
DARK = "background_dark"
CAST = "background_tinted"

_FLAT_SD = 3.0  # grey levels: sensor and JPEG noise of glass; stroma has texture beyond that
_GLASS_SHARE = 0.002  # of the pixels, below which flat bright ones may be chance
_NEAR = 6  # grey levels below the brightest flat pixels that still are the same glass
_PADDING = 255  # scanners and readers fill what was not scanned with pure white
_MAX_PIXELS = 400_000  # per image: enough for a mode, cheap on large images


def estimate_background(images: Sequence[U8]) -> tuple[Vector, tuple[str, ...]]:
    """Colour of the glass (R, G, B) and flags.

    Glass is flat and bright: the median colour of flat pixels near the bright end. Where no image has any, the
    brightest half per cent of the tissue stands in, flagged; the optical densities are then too low by whatever
    that tissue absorbs.
    """
    flat: list[U8] = []
    anything: list[U8] = []
    total = 0
    for image in images:
        pixels, is_flat = _flat_pixels(image)
        total += len(pixels)
        flat.append(pixels[is_flat])
        anything.append(pixels)
    if total == 0:
        return (255.0, 255.0, 255.0), (NO_GLASS,)
    every, flats = np.concatenate(anything), np.concatenate(flat)
    level = every.astype(np.int32).sum(axis=1)
    bright = np.percentile(level, 99.5)
    colour = np.median(every[level >= bright], axis=0)
    flags: tuple[str, ...] = (NO_GLASS,)
    if len(flats) >= max(50, _GLASS_SHARE * total):
        flat_level = flats.astype(np.int32).sum(axis=1)
        near = flats[flat_level >= np.percentile(flat_level, 99) - 3 * _NEAR]
        glass = np.median(near, axis=0)
        # flat pixels darker than much of the tissue are smears or a cover-slip edge, not glass
        if len(near) >= max(50, _GLASS_SHARE * total) and glass.sum() >= bright - 6 * _NEAR:
            colour, flags = glass, ()
    return _checked(colour, flags)


def _checked(colour: npt.NDArray[np.float64], flags: tuple[str, ...]) -> tuple[Vector, tuple[str, ...]]:
    if colour.min() < 150:
        flags += (DARK,)
    if colour.max() - colour.min() > 40:
        flags += (CAST,)
    r, g, b = (float(v) for v in colour)
    return (r, g, b), flags


def _flat_pixels(image: U8) -> tuple[U8, npt.NDArray[np.bool_]]:
    """A regular sample of the scanned pixels, uint8[N, 3], and which of them are flat."""
    grey = image.astype(np.float32).mean(axis=2)
    mean = cv2.blur(grey, (9, 9))
    variance = cv2.blur(grey * grey, (9, 9)) - mean * mean
    step = max(1, int(np.sqrt(grey.size / _MAX_PIXELS)))
    pixels = image[::step, ::step].reshape(-1, 3)
    is_flat = (variance < _FLAT_SD**2)[::step, ::step].ravel()
    padding = (pixels == _PADDING).all(axis=1)
    others_near_white = (pixels.min(axis=1) >= 247) & ~padding
    if padding.any() and np.count_nonzero(others_near_white) < 0.2 * np.count_nonzero(padding):
        # pure white without the noise around it that a saturated sensor leaves: never scanned
        pixels, is_flat = pixels[~padding], is_flat[~padding]
    return pixels, is_flat
