"""overlay.jpg: the H&E with the warped IHC on it, as a checkerboard and in false colour, so that a person sees at
once whether it fits."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from virtual_stain.geometry import Affine2D, Size
from virtual_stain.registration.raster import Image, Mask, Rgb
from virtual_stain.registration.result import Registration
from virtual_stain.registration.working import SideImage

_LONGEST_PX = 1400
_SQUARES = 12  # along the longer side
_HE_OUTLINE, _IHC_OUTLINE = (0, 140, 0), (220, 0, 160)


def draw_overlay(he: SideImage, ihc: SideImage, registration: Registration) -> Rgb:
    """uint8[H, W, 3]: checkerboard above (left, if tall), false colour below (right).

    False colour: the H&E's absorbance in magenta, the IHC's in green; where both agree it is grey. Outlines: H&E
    tissue green, warped IHC tissue magenta.
    """
    frame, size = picture_frame(he)
    he_rgb, he_mask = _pulled(he, frame.matrix, size, registration, forward=False)
    ihc_rgb, ihc_mask = _pulled(ihc, frame.matrix, size, registration, forward=True)
    board = _outlined(checkerboard(he_rgb, ihc_rgb), he_mask, ihc_mask)
    colours = _outlined(_false_colour(he_rgb, ihc_rgb), he_mask, ihc_mask)
    axis = 0 if size.width >= size.height else 1
    gap = np.full((6, size.width, 3) if axis == 0 else (size.height, 6, 3), 128, np.uint8)
    return np.asarray(np.concatenate([board, gap, colours], axis=axis), np.uint8)


def picture_frame(he: SideImage, longest_px: int = _LONGEST_PX) -> tuple[Affine2D, Size]:
    """he_px0 from picture, and the picture's size: the H&E tissue with a margin."""
    ys, xs = np.nonzero(he.mask)
    margin = 0.05 * max(np.ptp(xs) + 1, np.ptp(ys) + 1)
    low = np.array([xs.min() - margin, ys.min() - margin])
    extent = np.array([np.ptp(xs) + 1 + 2 * margin, np.ptp(ys) + 1 + 2 * margin])
    unit = np.array(he.unit_per_ov)
    physical = extent * unit  # square pixels in the picture, also where the slide's are not
    step = max(float(physical.max()) / longest_px, float(unit.min()))
    size = Size(max(8, round(physical[0] / step)), max(8, round(physical[1] / step)))
    ov_from_picture = Affine2D.scale_and_shift("ov", "picture", (step / unit[0], step / unit[1]), (low[0], low[1]))
    return Affine2D("he_px0", "ov", he.px0_from_ov.matrix) @ ov_from_picture, size


def _pulled(
    side: SideImage, he_from_picture: npt.NDArray[np.float64], size: Size, registration: Registration, *, forward: bool
) -> tuple[Rgb, Mask]:
    x, y = np.meshgrid(np.arange(size.width) + 0.5, np.arange(size.height) + 0.5)
    points = Affine2D("px0", "picture", he_from_picture).apply(np.stack([x, y], axis=-1).reshape(-1, 2))
    if forward:
        points = registration.transform.to_ihc(points)
    source = side.px0_from_ov.inverse().apply(points).reshape(size.height, size.width, 2) - 0.5
    maps = source.astype(np.float32)
    white = (255, 255, 255)
    rgb = cv2.remap(
        side.rgb, maps[..., 0], maps[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=white
    )
    mask = cv2.remap(side.mask.astype(np.uint8), maps[..., 0], maps[..., 1], cv2.INTER_NEAREST)
    return np.asarray(rgb, np.uint8), mask > 0


def checkerboard(he: Rgb, ihc: Rgb, squares: int = _SQUARES) -> Rgb:
    """uint8[H, W, 3]: squares of one and the other, `squares` along the longer side."""
    height, width = he.shape[:2]
    square = max(8, max(height, width) // squares)
    odd = ((np.arange(height)[:, None] // square + np.arange(width)[None] // square) % 2).astype(bool)
    return np.asarray(np.where(odd[..., None], ihc, he), np.uint8)


def _false_colour(he: Rgb, ihc: Rgb) -> Rgb:
    first, second = (_absorbance(i) for i in (he, ihc))
    # magenta ink takes green light away, green ink takes red and blue
    stacked = np.stack([1 - second, 1 - first, 1 - second], axis=-1)
    return np.asarray(np.clip(stacked * 255, 0, 255), np.uint8)


def _absorbance(rgb: Rgb) -> Image:
    grey = 255.0 - cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.float32)
    result: Image = np.clip(grey / max(float(np.percentile(grey, 97)), 1.0), 0, 1).astype(np.float32)
    return result


def _outlined(rgb: Rgb, he_mask: Mask, ihc_mask: Mask) -> Rgb:
    picture = rgb.copy()
    for mask, colour in ((he_mask, _HE_OUTLINE), (ihc_mask, _IHC_OUTLINE)):
        contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        cv2.drawContours(picture, contours, -1, colour, 1, cv2.LINE_AA)
    return picture


def jpeg(rgb: Rgb) -> bytes:
    """The picture as JPEG bytes."""
    _, data = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 90])
    return data.tobytes()
