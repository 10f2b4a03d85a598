"""Sizes, boxes and affine transforms, with the frame each of them lives in.

Conventions (docs/coordinates.md): points are (x, y), x right, y down, float64; pixel i covers [i, i + 1), its
centre is i + 0.5; boxes are half-open. OpenCV's warps put the centre of the first pixel at 0 instead:
`Affine2D.to_cv2` and `Affine2D.from_cv2` are the only doors between the two.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float64]  # float64[N, 2], (x, y)
Frame = str  # "he_px0", "ihc_px0", "he_ov", "tile" …: which pixels a coordinate counts


@dataclass(frozen=True, slots=True)
class Size:
    """A size in whole pixels of some level or image."""

    width: int
    height: int

    def __post_init__(self) -> None:
        if self.width <= 0 or self.height <= 0:
            raise ValueError(f"Expected a positive size. Received: {self.width} × {self.height}")

    @property
    def area(self) -> int:
        return self.width * self.height

    @property
    def diagonal(self) -> float:
        return math.hypot(self.width, self.height)


@dataclass(frozen=True, slots=True)
class Box:
    """A half-open, axis-parallel rectangle [x, x + width) × [y, y + height); may start and end inside a pixel."""

    x: float
    y: float
    width: float
    height: float

    def __post_init__(self) -> None:
        values = (self.x, self.y, self.width, self.height)
        if not all(math.isfinite(v) for v in values) or self.width <= 0 or self.height <= 0:
            raise ValueError(f"Expected a finite box of positive size. Received: {values}")

    @property
    def x1(self) -> float:
        return self.x + self.width

    @property
    def y1(self) -> float:
        return self.y + self.height

    @property
    def area(self) -> float:
        return self.width * self.height

    @property
    def centre(self) -> tuple[float, float]:
        return self.x + self.width / 2, self.y + self.height / 2

    def corners(self) -> Points:
        """float64[4, 2]: clockwise on the screen from the top left."""
        return np.array([[self.x, self.y], [self.x1, self.y], [self.x1, self.y1], [self.x, self.y1]], np.float64)

    def expanded(self, margin: float) -> Box:
        """The same box, `margin` larger on every side."""
        return Box(self.x - margin, self.y - margin, self.width + 2 * margin, self.height + 2 * margin)

    def intersection(self, other: Box) -> Box | None:
        """The common part, or None where there is none."""
        x, y = max(self.x, other.x), max(self.y, other.y)
        x1, y1 = min(self.x1, other.x1), min(self.y1, other.y1)
        return Box(x, y, x1 - x, y1 - y) if x1 > x and y1 > y else None

    def contains(self, other: Box) -> bool:
        return self.x <= other.x and self.y <= other.y and self.x1 >= other.x1 and self.y1 >= other.y1

    @staticmethod
    def around(points: Points) -> Box:
        """The smallest box that holds all of float64[N, 2]."""
        low, high = points.min(axis=0), points.max(axis=0)
        return Box(float(low[0]), float(low[1]), float(high[0] - low[0]), float(high[1] - low[1]))


_HALF = np.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5], [0.0, 0.0, 1.0]])
_MINUS_HALF = np.array([[1.0, 0.0, -0.5], [0.0, 1.0, -0.5], [0.0, 0.0, 1.0]])


@dataclass(frozen=True, eq=False)
class Affine2D:
    """`target_from_source`: an affine transform of points of the frame `source` into the frame `target`.

    `matrix`: float64[3, 3], last row (0, 0, 1), invertible. Pixel centres at + 0.5.
    """

    target: Frame
    source: Frame
    matrix: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        matrix = np.array(self.matrix, np.float64)
        if matrix.shape != (3, 3) or not np.isfinite(matrix).all() or not np.array_equal(matrix[2], [0, 0, 1]):
            raise ValueError(f"Expected a finite affine 3 × 3 matrix with last row 0 0 1. Received:\n{matrix}")
        if abs(np.linalg.det(matrix[:2, :2])) < 1e-12:
            raise ValueError(f"Expected an invertible matrix. Received:\n{matrix}")
        matrix.setflags(write=False)
        object.__setattr__(self, "matrix", matrix)

    @staticmethod
    def identity(target: Frame, source: Frame) -> Affine2D:
        return Affine2D(target, source, np.eye(3))

    @staticmethod
    def scale_and_shift(
        target: Frame, source: Frame, scale: tuple[float, float], shift: tuple[float, float] = (0.0, 0.0)
    ) -> Affine2D:
        """target = scale · source + shift, per axis."""
        return Affine2D(
            target, source, np.array([[scale[0], 0, shift[0]], [0, scale[1], shift[1]], [0, 0, 1]], np.float64)
        )

    def __matmul__(self, other: Affine2D) -> Affine2D:
        """a_from_b @ b_from_c = a_from_c; frames that do not meet are an error."""
        if self.source != other.target:
            raise ValueError(
                f"Expected transforms that meet. Received: {self.target}_from_{self.source} @ "
                f"{other.target}_from_{other.source}"
            )
        return Affine2D(self.target, other.source, self.matrix @ other.matrix)

    def inverse(self) -> Affine2D:
        inverse = np.linalg.inv(self.matrix)
        inverse[2] = (0.0, 0.0, 1.0)
        return Affine2D(self.source, self.target, inverse)

    def apply(self, points: npt.ArrayLike) -> Points:
        """float64[..., 2] of `source` → float64[..., 2] of `target`."""
        array = np.asarray(points, np.float64)
        result: Points = array @ self.matrix[:2, :2].T + self.matrix[:2, 2]
        return result

    def to_cv2(self) -> npt.NDArray[np.float64]:
        """float64[2, 3] for pixel indices as OpenCV counts them (centre of the first pixel at 0).

        For `cv2.warpAffine(image_of_source, a.to_cv2(), target_size)`; with WARP_INVERSE_MAP pass the transform
        that goes from the output image to the input image.
        """
        result: npt.NDArray[np.float64] = (_MINUS_HALF @ self.matrix @ _HALF)[:2]
        return result

    @staticmethod
    def from_cv2(target: Frame, source: Frame, matrix: npt.ArrayLike) -> Affine2D:
        """The inverse of `to_cv2`: takes [2, 3] or [3, 3] as OpenCV's ECC or estimators return it."""
        m23 = np.asarray(matrix, np.float64)[:2]
        return Affine2D(target, source, _HALF @ np.vstack([m23, [0.0, 0.0, 1.0]]) @ _MINUS_HALF)

    @property
    def determinant(self) -> float:
        return float(np.linalg.det(self.matrix[:2, :2]))

    @property
    def mirrored(self) -> bool:
        return self.determinant < 0

    @property
    def scales(self) -> tuple[float, float]:
        """Singular values of the linear part, larger first: how many target px one source px becomes."""
        values = np.linalg.svd(self.matrix[:2, :2], compute_uv=False)
        return float(values[0]), float(values[1])

    @property
    def rotation_deg(self) -> float:
        """Rotation of the nearest orthogonal map in (-180, 180]; for a mirror, after mirroring x."""
        u, _, vt = np.linalg.svd(self.matrix[:2, :2])
        q = u @ vt
        if np.linalg.det(q) < 0:
            q = q @ np.diag([-1.0, 1.0])
        return float(np.degrees(np.arctan2(q[1, 0], q[0, 0])))


def scale_bar_um(width_um: float) -> float:
    """The longest of 1, 2, 5 · 10ⁿ µm that is at most a quarter of `width_um`."""
    exponent = math.floor(math.log10(width_um / 4))
    return max(s * 10.0**e for e in (exponent - 1, exponent) for s in (1, 2, 5) if s * 10.0**e <= width_um / 4)
