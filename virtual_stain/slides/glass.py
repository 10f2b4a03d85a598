"""The colour of empty glass on an overview, and optical density against it."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from virtual_stain.slides.source import Rgb

Float = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Colour = npt.NDArray[np.float64]

TEXTURE_UM = 24.0  # neighbourhood in which texture is measured
FAINT_TEXTURE_OD = 0.006  # local standard deviation from which even the faintest stain is tissue

_DARKEST_GLASS = 170.0  # of 255: grey glass and dim lamps reach about 190
_NEUTRAL_OD = 0.04  # a white lamp: what is bright and has no more colour than this is glass without further proof
_WIDEST_CAST_OD = 0.2  # a third of one channel's light: well beyond the lamps and white balances of scanners
_ASSUMED_GLASS = 240.0  # where no glass is in sight
_EVEN_LEVELS = 5  # of 255, over 3 px
_LEAST_GLASS_FRACTION = 0.002  # of the picture; less glass is none
_LEAST_APART_FRACTION = 0.01  # of the picture; less of a tinted class may be a pale spot of tissue
_SIMILAR_FRACTION = 0.93  # pixels at least this bright beside the brightest count as glass
_GAP = 2.0  # times as many even pixels as stained ones in the next darker class of the same width
_COLORLESS_OD = 0.01  # between channels; compression leaves less, the palest stains more
_PADDING_FRACTION = 0.05  # of the picture; less pure white is overexposure
_PADDING_RIM_PX = 4  # where compression and scaling mix padding with the picture


def glass_color(rgb: Rgb, mpp_um: float) -> Colour:
    """float64[3]: the colour of glass in uint8[H, W, 3] at `mpp_um` µm/px; neutral 240 where the picture shows none.

    Glass is bright and smooth. Where there is plenty of it, it stands apart from all tissue, whatever the lamp's
    colour; a little of it must be nearly neutral to be told from pale tissue. Pure white is padding that no camera
    took; it counts only where nearly everything is pure white.
    """
    smooth = np.asarray(cv2.GaussianBlur(rgb, (0, 0), 1.0), np.uint8)
    even = _even(smooth)
    white = np.full(3, 255.0)
    padding = np.asarray(cv2.inRange(rgb, white, white) > 0, np.bool_)
    if padding.mean() < 0.95:
        even &= ~padding
    color = _glass_apart(rgb, smooth, even & ~_rim(padding), mpp_um)
    if color is None and even.mean() >= _LEAST_GLASS_FRACTION:
        color = _neutral_glass(smooth[even])
    return np.full(3, _ASSUMED_GLASS) if color is None else color


def _glass_apart(rgb: Rgb, smooth: Rgb, even: Mask, mpp_um: float) -> Colour | None:
    """Glass of any tint: at once the brightest in every channel, without texture, and with a gap below it.

    Stains absorb the channels unequally, so that in tissue alone the places brightest in red and in blue differ. Tissue
    has texture, and its colours run on into deeper ones. A cast or a dim lamp is a factor on each channel and changes
    none of this.
    """
    least = _LEAST_APART_FRACTION * even.size
    if np.count_nonzero(even) < least:
        return None
    brightest = np.maximum(np.percentile(smooth[even], 99, axis=0), 1.0).astype(np.float32)
    level = (smooth / brightest).min(axis=-1)
    glass = even & (level >= _SIMILAR_FRACTION)
    if np.count_nonzero(glass) < least:
        return None
    color = np.asarray(np.median(smooth[glass], axis=0), np.float64)
    if color.max() < _DARKEST_GLASS or np.log10(color.max() / max(1.0, color.min())) > _WIDEST_CAST_OD:
        return None
    next_darker = even & ~glass & (level >= _SIMILAR_FRACTION**2)
    od = optical_density(smooth[next_darker][None], color)
    stained = np.count_nonzero(od.max(axis=0) - od.min(axis=0) > _COLORLESS_OD)  # shadows and cover slips are grey
    if np.count_nonzero(glass) < _GAP * stained:
        return None
    texture = local_spread(optical_density(rgb, color).mean(axis=0), TEXTURE_UM / mpp_um)
    return color if np.median(texture[glass]) < FAINT_TEXTURE_OD else None


def _neutral_glass(pixels: Rgb) -> Colour | None:
    """Of even pixels uint8[N, 3]: the brightest, if they are nearly neutral."""
    darkest_channel = pixels.min(axis=-1)
    bright = darkest_channel >= np.percentile(darkest_channel, 98) * _SIMILAR_FRACTION
    color = np.asarray(np.median(pixels[bright], axis=0), np.float64)
    if color.min() < _DARKEST_GLASS or np.log10(color.max() / color.min()) > _NEUTRAL_OD:
        return None
    return color


def _rim(padding: Mask) -> Mask:
    """Padding and what lies beside it."""
    if padding.mean() <= _PADDING_FRACTION:
        return np.zeros_like(padding)
    side = 2 * _PADDING_RIM_PX + 1
    return np.asarray(cv2.dilate(padding.astype(np.uint8), np.ones((side, side), np.uint8)) > 0, np.bool_)


def _even(smooth: Rgb) -> Mask:
    """Where brightness hardly changes over a few pixels: glass, and not pale tissue between nuclei."""
    grey = cv2.cvtColor(smooth, cv2.COLOR_RGB2GRAY)
    kernel = np.ones((3, 3), np.uint8)
    spread = cv2.subtract(cv2.dilate(grey, kernel), cv2.erode(grey, kernel))
    return np.asarray(spread <= _EVEN_LEVELS, np.bool_)


def optical_density(rgb: Rgb, glass: Colour) -> Float:
    """float32[3, H, W]: log10(glass / value), about 0 on glass, larger where light is absorbed."""
    values = np.arange(256, dtype=np.float64)[:, None]
    table = np.log10((glass + 1) / (values + 1)).astype(np.float32)  # one row a value: no logarithm per pixel
    return np.stack([table[rgb[..., i], i] for i in range(3)])


def smoothed(image: Float, sigma_px: float) -> Float:
    """Gaussian mean, float32[H, W]."""
    return np.asarray(cv2.GaussianBlur(image, (0, 0), max(0.5, sigma_px)), np.float32)


def local_spread(image: Float, sigma_px: float) -> Float:
    """Standard deviation in a neighbourhood, float32[H, W]."""
    sigma_px = max(1.0, sigma_px)
    mean = smoothed(image, sigma_px)
    square = smoothed(image * image, sigma_px)
    return np.asarray(np.sqrt(np.maximum(square - mean * mean, 0)), np.float32)
