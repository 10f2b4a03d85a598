"""The colour of empty glass on an overview, and optical density against it."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from virtual_stain.slides.source import Rgb

Float = npt.NDArray[np.float32]

_DARKEST_GLASS = 170.0  # of 255: grey glass and dim lamps reach about 190
_TINT_OD = 0.04  # glass is nearly neutral; more colour than this is stained tissue
_ASSUMED_GLASS = 240.0  # where no glass is in sight
_EVEN_LEVELS = 5  # of 255, over 3 px
_LEAST_GLASS_FRACTION = 0.002  # of the picture; less glass is none
_SIMILAR_FRACTION = 0.93  # pixels at least this bright beside the brightest count as glass


def glass_color(rgb: Rgb) -> npt.NDArray[np.float64]:
    """float64[3]: the colour of glass in uint8[H, W, 3]; neutral 240 where the picture shows none.

    Glass is bright, smooth and nearly neutral. Pure white is padding that no camera took; it counts only where
    nearly everything is pure white.
    """
    smooth = np.asarray(cv2.GaussianBlur(rgb, (0, 0), 1.0), np.uint8)
    usable = _even(smooth)
    white = np.full(3, 255.0)
    taken = np.asarray(cv2.inRange(rgb, white, white) == 0, np.bool_)
    if taken.mean() > 0.05:
        usable &= taken
    if usable.mean() < _LEAST_GLASS_FRACTION:
        return np.full(3, _ASSUMED_GLASS)
    pixels = smooth[usable]
    darkest_channel = pixels.min(axis=-1)
    bright = darkest_channel >= np.percentile(darkest_channel, 98) * _SIMILAR_FRACTION
    color = np.asarray(np.median(pixels[bright], axis=0), np.float64)
    if color.min() < _DARKEST_GLASS or np.log10(color.max() / color.min()) > _TINT_OD:
        return np.full(3, _ASSUMED_GLASS)
    return color


def _even(smooth: Rgb) -> npt.NDArray[np.bool_]:
    """Where brightness hardly changes over a few pixels: glass, and not pale tissue between nuclei."""
    grey = cv2.cvtColor(smooth, cv2.COLOR_RGB2GRAY)
    kernel = np.ones((3, 3), np.uint8)
    spread = cv2.subtract(cv2.dilate(grey, kernel), cv2.erode(grey, kernel))
    return np.asarray(spread <= _EVEN_LEVELS, np.bool_)


def optical_density(rgb: Rgb, glass: npt.NDArray[np.float64]) -> Float:
    """float32[3, H, W]: log10(glass / value), about 0 on glass, larger where light is absorbed."""
    values = np.arange(256, dtype=np.float64)[:, None]
    table = np.log10((glass + 1) / (values + 1)).astype(np.float32)  # one row a value: no logarithm per pixel
    return np.stack([table[rgb[..., i], i] for i in range(3)])
