"""The transform of a pair: an affine matrix and, optionally, a smooth local displacement before it.

    ihc_px0 = A · (he_px0 + u(he_px0))

`A` is `ihc_from_he`; u is given on a regular grid in H&E level-0 px, bilinear between its nodes, constant outside.
Everything downstream (tiles, labels, warp, truth of the phantoms) goes through this one class.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from virtual_stain.geometry import Affine2D, Points


@dataclass(frozen=True, slots=True, eq=False)
class DisplacementField:
    """u at the nodes origin + (column, row) · spacing of H&E level-0 px."""

    origin_px0: tuple[float, float]
    """(x, y) of node [0, 0]."""
    spacing_px0: tuple[float, float]
    """(x, y) between nodes, > 0."""
    values_px0: npt.NDArray[np.float32]
    """float32[rows, columns, 2]: (ux, uy) in H&E level-0 px."""

    def __post_init__(self) -> None:
        if self.values_px0.ndim != 3 or self.values_px0.shape[2] != 2 or min(self.spacing_px0) <= 0:
            raise ValueError(
                "Expected values [rows, columns, 2] and spacing > 0. "
                f"Received: {self.values_px0.shape}, {self.spacing_px0}"
            )
        if not np.isfinite(self.values_px0).all():
            raise ValueError("Expected finite displacements. Received: NaN or infinity")

    def at(self, points: npt.ArrayLike) -> Points:
        """float64[N, 2] of he_px0 → float64[N, 2] displacement in he_px0."""
        p = np.asarray(points, np.float64).reshape(-1, 2)
        rows, columns = self.values_px0.shape[:2]
        fx = np.clip((p[:, 0] - self.origin_px0[0]) / self.spacing_px0[0], 0, columns - 1)
        fy = np.clip((p[:, 1] - self.origin_px0[1]) / self.spacing_px0[1], 0, rows - 1)
        x0 = np.minimum(fx.astype(np.intp), max(columns - 2, 0))
        y0 = np.minimum(fy.astype(np.intp), max(rows - 2, 0))
        x1, y1 = np.minimum(x0 + 1, columns - 1), np.minimum(y0 + 1, rows - 1)
        wx, wy = (fx - x0)[:, None], (fy - y0)[:, None]
        v = self.values_px0.astype(np.float64)
        top = v[y0, x0] * (1 - wx) + v[y0, x1] * wx
        bottom = v[y1, x0] * (1 - wx) + v[y1, x1] * wx
        result: Points = top * (1 - wy) + bottom * wy
        return result


@dataclass(frozen=True, slots=True, eq=False)
class PairTransform:
    """Maps H&E level-0 px to IHC level-0 px and back."""

    ihc_from_he: Affine2D
    """target "ihc_px0", source "he_px0"."""
    displacement: DisplacementField | None = None

    def to_ihc(self, he_points: npt.ArrayLike) -> Points:
        """float64[N, 2] of he_px0 → float64[N, 2] of ihc_px0."""
        p = np.asarray(he_points, np.float64).reshape(-1, 2)
        return self.ihc_from_he.apply(p if self.displacement is None else p + self.displacement.at(p))

    def to_he(self, ihc_points: npt.ArrayLike, *, tolerance_px0: float = 1e-3, iterations: int = 60) -> Points:
        """float64[N, 2] of ihc_px0 → float64[N, 2] of he_px0, by fixed-point iteration p ← q − u(p).

        Converges because a valid displacement is a contraction (no folding). Raises ArithmeticError otherwise.
        """
        q = self.ihc_from_he.inverse().apply(np.asarray(ihc_points, np.float64).reshape(-1, 2))
        if self.displacement is None or not len(q):
            return q
        p = q - self.displacement.at(q)
        for _ in range(iterations):
            following = q - self.displacement.at(p)
            step = float(np.abs(following - p).max())
            p = following
            if step < tolerance_px0:
                return p
        raise ArithmeticError(f"The displacement field cannot be inverted: still moving by {step:.3g} px.")

    def local_affine(self, he_point: tuple[float, float], reach_px0: float) -> Affine2D:
        """The affine map that fits the whole transform best within ± reach_px0 of a point (least squares)."""
        offsets = np.array([[x, y] for y in (-1.0, 0.0, 1.0) for x in (-1.0, 0.0, 1.0)]) * reach_px0
        source = np.asarray(he_point, np.float64) + offsets
        solution, *_ = np.linalg.lstsq(np.c_[source, np.ones(len(source))], self.to_ihc(source), rcond=None)
        matrix = np.eye(3)
        matrix[:2] = solution.T
        return Affine2D(self.ihc_from_he.target, self.ihc_from_he.source, matrix)
