"""Float images of the registration and the few OpenCV calls on them, with types and one pixel convention.

Matrices passed in here map pixel centres at + 0.5, as everywhere in the project; OpenCV's own convention (centre
of the first pixel at 0) stays inside this module.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.float32]  # float32[H, W]
Rgb = npt.NDArray[np.uint8]  # uint8[H, W, 3]
Mask = npt.NDArray[np.bool_]  # bool[H, W]
Matrix = npt.NDArray[np.float64]  # float64[3, 3]
Dense = npt.NDArray[np.float32]  # float32[H, W, 2]

_HALF = np.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5], [0.0, 0.0, 1.0]])
_BLUR_STEP = 4.0  # a sigma of four pixels of the smaller copy is left
_MINUS_HALF = np.array([[1.0, 0.0, -0.5], [0.0, 1.0, -0.5], [0.0, 0.0, 1.0]])


def to_index(matrix: Matrix) -> Matrix:
    """float64[3, 3] for pixel indices as OpenCV counts them."""
    result: Matrix = _MINUS_HALF @ matrix @ _HALF
    return result


def from_index(matrix: Matrix) -> Matrix:
    """The inverse of `to_index`."""
    result: Matrix = _HALF @ matrix @ _MINUS_HALF
    return result


def blur(image: Image, sigma: float) -> Image:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.float32)


def blur_widely(image: Image, sigma: float) -> Image:
    """`blur`, computed on a smaller copy where `sigma` is so large that none would tell the difference."""
    step = int(sigma // _BLUR_STEP)
    height, width = image.shape
    if step < 2 or min(height, width) < 8 * step:
        return blur(image, sigma)
    small = resized(image, (-(-width // step), -(-height // step)))
    smooth = blur(small, sigma / step)
    return np.asarray(cv2.resize(smooth, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)


def resized(image: Image, size: tuple[int, int]) -> Image:
    """Area-averaged to `size` = (width, height)."""
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.float32)


def shrink(image: Image, factor: float) -> Image:
    """Area-averaged copy at `factor` ≤ 1 of the size (at least 1 px)."""
    height, width = image.shape
    return image if factor >= 1 else resized(image, (max(1, round(width * factor)), max(1, round(height * factor))))


def pulled(image: Image, source_from_out: Matrix, size: tuple[int, int]) -> Image:
    """The picture of `size` (width, height) whose pixels lie at `source_from_out` in `image`; 0 outside it."""
    warp = to_index(source_from_out)[:2]
    return np.asarray(cv2.warpAffine(image, warp, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP), np.float32)


def sampled(image: Image, points: Dense) -> Image:
    """`image` at float32[H, W, 2] points (+0.5 convention); 0 outside it."""
    x, y = points[..., 0] - np.float32(0.5), points[..., 1] - np.float32(0.5)
    return np.asarray(cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT), np.float32)


def padded(image: Image, margin: int) -> Image:
    """With `margin` px of 0 on every side."""
    return np.pad(image, margin)


def local_norm(image: Image, sigma: float, mask: Mask | None = None) -> Image:
    """(image − local mean) / local standard deviation over a Gaussian neighbourhood of `sigma` px.

    With a mask, statistics come from inside it only and the result is 0 outside: the outline of the tissue then
    counts for nothing.
    """
    if mask is None:
        deviation = image - blur_widely(image, sigma)
        return _whitened(deviation, blur_widely(deviation * deviation, sigma))
    inside = mask.astype(np.float32)
    weight = np.maximum(blur_widely(inside, sigma), np.float32(1e-3))
    deviation = (image - blur_widely(image * inside, sigma) / weight) * inside
    return _whitened(deviation, blur_widely(deviation * deviation, sigma) / weight) * inside


def _whitened(deviation: Image, variance: Image) -> Image:
    # the floor keeps flat regions (mucus, necrosis, glass) from becoming amplified noise
    floor = 0.05 * float(variance.mean()) + 1e-5
    result: Image = deviation / np.sqrt(variance + np.float32(floor))
    return result
