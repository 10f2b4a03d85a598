"""Random numbers by name, smooth random fields and periodic textures."""

from __future__ import annotations

import zlib

import cv2
import numpy as np
import numpy.typing as npt
import scipy.fft

Image = npt.NDArray[np.float32]


def rng_for(seed: int, *names: str | int) -> np.random.Generator:
    """An independent generator for a purpose: adding a purpose never changes the numbers of another."""
    words = [zlib.crc32(str(name).encode()) for name in names]
    return np.random.default_rng([seed, *words])


def smooth_field(rng: np.random.Generator, shape: tuple[int, int], sigma_px: float) -> Image:
    """float32[h, w]: Gaussian random field of mean 0 and standard deviation about 1, correlated over `sigma_px`."""
    step = max(1.0, sigma_px / 3)
    height, width = (int(np.ceil(n / step)) + 8 for n in shape)
    sigma = sigma_px / step
    margin = int(np.ceil(3 * sigma))
    white = rng.standard_normal((height + 2 * margin, width + 2 * margin)).astype(np.float32)
    field = np.asarray(cv2.GaussianBlur(white, (0, 0), sigma), np.float32)[margin:-margin, margin:-margin]
    field = field * np.float32(
        2 * np.sqrt(np.pi) * sigma
    )  # the blur's own loss of variance: an expectation, so small fields stay random
    if step > 1:
        zoom = np.array([[1 / step, 0, 4], [0, 1 / step, 4]], np.float64)
        enlarged = cv2.warpAffine(
            field,
            zoom,
            (shape[1], shape[0]),
            flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REFLECT,
        )
        # warpAffine interpolates in steps of 1/32: smooth the steps away where they are wider than a pixel
        field = np.asarray(cv2.GaussianBlur(enlarged, (0, 0), step / 6) if step > 4 else enlarged, np.float32)
    result: Image = np.ascontiguousarray(field[: shape[0], : shape[1]], np.float32)
    return result


def periodic_noise(rng: np.random.Generator, side: int, sigma_x: float, sigma_y: float) -> Image:
    """float32[side, side]: seamless texture of mean 0 and standard deviation 1, correlated over the sigmas (px)."""
    fx = np.fft.rfftfreq(side)[None, :]
    fy = np.fft.fftfreq(side)[:, None]
    transfer = np.exp(-2 * np.pi**2 * ((fx * sigma_x) ** 2 + (fy * sigma_y) ** 2))
    transfer[0, 0] = 0
    white = rng.standard_normal((side, side), np.float32)
    field = scipy.fft.irfft2(scipy.fft.rfft2(white) * transfer.astype(np.float32), (side, side))
    result: Image = (field / field.std()).astype(np.float32)
    return result


def wrapped(texture: Image, x0: int, y0: int, width: int, height: int) -> Image:
    """The window of an endlessly repeated texture that starts at (x0, y0)."""
    side_y, side_x = texture.shape[:2]
    result: Image = np.empty((height, width, *texture.shape[2:]), texture.dtype)
    y = 0
    while y < height:
        from_y = (y0 + y) % side_y
        rows = min(height - y, side_y - from_y)
        x = 0
        while x < width:
            from_x = (x0 + x) % side_x
            columns = min(width - x, side_x - from_x)
            result[y : y + rows, x : x + columns] = texture[from_y : from_y + rows, from_x : from_x + columns]
            x += columns
        y += rows
    return result


def smoothstep(value: Image, low: float, high: float) -> Image:
    """0 below `low`, 1 above `high`, straight in between."""
    result: Image = np.clip((value - np.float32(low)) * np.float32(1 / (high - low)), 0, 1)
    return result
