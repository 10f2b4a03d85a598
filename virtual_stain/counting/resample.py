"""Area averaging to the working pixel size, bit for bit the same wherever a window is cut.

The ratio of the two pixel sizes is a fraction p/q: p pixels in become q pixels out. A window that starts at a
multiple of p meets the same pixels in the same way as the whole image. All sums are whole numbers that float32 holds
exactly. So neighbouring windows agree to the last bit. That is what makes a cell count independent of
the windows it was made in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

_LARGEST_DENOMINATOR = 5  # working pixel sizes within 6 % of the wanted one; blocks stay small
_LARGEST_BLOCK = 60  # 255 · 60 · 60 < 2²⁴: sums stay exact in float32


@dataclass(frozen=True, slots=True)
class AreaResampler:
    """`p` pixels become `q` ≤ p along x, and along y."""

    x: Fraction
    y: Fraction

    @staticmethod
    def towards(mpp: tuple[float, float], work_mpp: float) -> AreaResampler:
        """The fractions that bring `mpp` closest to `work_mpp` (µm/px); pixels are never made smaller."""
        return AreaResampler(_ratio(mpp[0], work_mpp), _ratio(mpp[1], work_mpp))

    @property
    def factor(self) -> tuple[float, float]:
        """How many pixels in make one pixel out, along x and y."""
        return float(self.x), float(self.y)

    @property
    def period(self) -> tuple[int, int]:
        """Windows that start at multiples of these pixels (x, y) meet the same working pixels."""
        return self.x.numerator, self.y.numerator

    def __call__(self, rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """uint8[H, W, C] → float32[ceil(H/fy), ceil(W/fx), C] on the scale 0–255; the far border is replicated."""
        (px, py), (qx, qy) = self.period, (self.x.denominator, self.y.denominator)
        h, w, c = rgb.shape
        padded = np.pad(rgb, ((0, -h % py), (0, -w % px), (0, 0)), mode="edge")
        rows, columns = padded.shape[0] // py, padded.shape[1] // px
        out = padded.astype(np.float32)
        if py > 1:
            out = np.matmul(_weights(self.y), out.reshape(rows, py, columns * px * c))
        if px > 1:
            out = np.matmul(_weights(self.x), out.reshape(rows * qy, columns, px, c))
        out = out.reshape(rows * qy, columns * qx, c)
        if px * py > 1:
            out /= np.float32(px * py)
        return np.asarray(out[: math.ceil(h * qy / py), : math.ceil(w * qx / px)], np.float32)


def _ratio(mpp: float, work_mpp: float) -> Fraction:
    ratio = Fraction(work_mpp / mpp).limit_denominator(_LARGEST_DENOMINATOR)
    if ratio.numerator > _LARGEST_BLOCK:
        raise ValueError(f"Expected pixels of at least {work_mpp / _LARGEST_BLOCK:.3f} µm. Received: {mpp}")
    return max(ratio, Fraction(1))


def _weights(ratio: Fraction) -> npt.NDArray[np.float32]:
    """float32[q, p]: overlap of pixel out with pixel in, in q-ths of a pixel in; every row sums to p."""
    p, q = ratio.numerator, ratio.denominator
    out, into = np.arange(q)[:, None] * p, np.arange(p)[None, :] * q
    overlap = np.minimum(out + p, into + q) - np.maximum(out, into)
    return np.maximum(overlap, 0).astype(np.float32)  # type: ignore[no-any-return]
