"""A smooth displacement from the peaks of many windows: least squares with a bending energy, robust against wrong
peaks.

Minimises Σ wᵢ |u(xᵢ) − dᵢ|² + smoothness · ∫ (second derivatives)² over a bilinear grid of nodes. The weights follow
the curvature of each correlation peak along each axis (a window on a straight edge says nothing along that edge)
and fall with the distance from what the neighbours say (Geman–McClure weights, iteratively reweighted): a
consensus filter. Within its surface every window may change to the peak that fits its neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import scipy.sparse as sparse
from scipy.sparse.linalg import splu

from virtual_stain.geometry import Points
from virtual_stain.registration.transform import DisplacementField
from virtual_stain.registration.windows import Matches, Peaks, find_peaks

_TENSION = 0.02  # a little resistance to slope as well: bounds the extrapolation where there is no window
_REACHES = (np.inf, 3.0, 2.0, 1.5, 1.5)  # of the robust scale: first any peak, then those near the neighbours'
_CURVATURE_UNIT = 0.02
_MAX_CURVATURE = 0.06

Weights = npt.NDArray[np.float64]  # float64[N, 2], along x and y


@dataclass(frozen=True, slots=True)
class FieldSettings:
    """All in working px."""

    node_px: float
    smoothness: float
    robust_px: float
    """Distance from the neighbours' word at which a window's weight falls to a quarter."""
    max_slope: float
    """Largest |∂u| (spectral norm); below 1 the map cannot fold and its inversion converges."""


class Grid:
    """Bilinear nodes over a fixed image, and the least-squares problem on them."""

    def __init__(self, shape: tuple[int, int], node_px: float) -> None:
        self.node_px = node_px
        self.columns = int(np.ceil(shape[1] / node_px)) + 1
        self.rows = int(np.ceil(shape[0] / node_px)) + 1
        self.penalty = _bending(self.rows, self.columns)

    def weights_at(self, points: Points) -> sparse.csr_matrix:
        """float64[N, nodes]: bilinear interpolation."""
        fx, fy = points[:, 0] / self.node_px, points[:, 1] / self.node_px
        x0 = np.clip(fx.astype(np.intp), 0, self.columns - 2)
        y0 = np.clip(fy.astype(np.intp), 0, self.rows - 2)
        wx, wy = np.clip(fx - x0, 0, 1), np.clip(fy - y0, 0, 1)
        first = y0 * self.columns + x0
        values = np.concatenate([(1 - wx) * (1 - wy), wx * (1 - wy), (1 - wx) * wy, wx * wy])
        columns = np.concatenate([first, first + 1, first + self.columns, first + self.columns + 1])
        rows = np.tile(np.arange(len(points)), 4)
        return sparse.csr_matrix((values, (rows, columns)), shape=(len(points), self.rows * self.columns))

    def solve(self, interpolate: sparse.csr_matrix, shifts: Points, weights: Weights, smoothness: float) -> Points:
        """float64[nodes, 2]."""
        nodes = np.zeros((self.rows * self.columns, 2))
        identity = sparse.identity(len(nodes), format="csc") * 1e-6
        transposed, per_row = interpolate.T.tocsr(), np.diff(interpolate.indptr)
        for axis in range(2):
            weighted = interpolate.copy()
            weighted.data *= np.repeat(weights[:, axis], per_row)
            system = transposed @ weighted + smoothness * self.penalty + identity
            nodes[:, axis] = splu(system.tocsc()).solve(weighted.T @ shifts[:, axis])
        return nodes

    def points(self) -> Points:
        """float64[nodes, 2]: where they lie."""
        x, y = np.meshgrid(np.arange(self.columns) * self.node_px, np.arange(self.rows) * self.node_px)
        points: Points = np.stack([x, y], axis=-1).reshape(-1, 2)
        return points

    def field(self, nodes: Points) -> DisplacementField:
        values = nodes.reshape(self.rows, self.columns, 2).astype(np.float32)
        return DisplacementField((0.0, 0.0), (self.node_px, self.node_px), values)


@lru_cache(maxsize=8)  # every pass and every fold of a pair asks for the same one
def _bending(rows: int, columns: int) -> sparse.csc_matrix:
    def differences(n: int, stencil: tuple[float, ...]) -> sparse.csr_matrix:
        count = max(n - len(stencil) + 1, 0)
        return sparse.diags(stencil, range(len(stencil)), shape=(count, n), format="csr", dtype=np.float64)

    one_x, one_y = differences(columns, (-1.0, 1.0)), differences(rows, (-1.0, 1.0))
    two_x, two_y = differences(columns, (1.0, -2.0, 1.0)), differences(rows, (1.0, -2.0, 1.0))
    eye_x, eye_y = sparse.identity(columns), sparse.identity(rows)
    terms = [
        (1.0, sparse.kron(eye_y, two_x)),
        (1.0, sparse.kron(two_y, eye_x)),
        (2.0, sparse.kron(one_y, one_x)),
        (_TENSION, sparse.kron(eye_y, one_x)),
        (_TENSION, sparse.kron(one_y, eye_x)),
    ]
    return sum(weight * (term.T @ term) for weight, term in terms).tocsc()


def peak_weights(peaks: Peaks, expected: Points | None, robust_px: float) -> Weights:
    """float64[N, 2]: what each window's peak is worth along x and y."""
    worth = np.clip(peaks.height, 0.0, 1.0) ** 2 * peaks.inside
    if expected is not None:
        distance2 = ((peaks.shifts - expected) ** 2).sum(axis=1)
        worth = worth / (1.0 + distance2 / robust_px**2) ** 2
    result: Weights = worth[:, None] * np.minimum(peaks.curvature, _MAX_CURVATURE) / _CURVATURE_UNIT
    return result


def fit_field(
    shape: tuple[int, int], matches: Matches, settings: FieldSettings, prior: DisplacementField | None = None
) -> DisplacementField | None:
    """The displacement that most windows agree on; None when there is hardly a window.

    `prior`: what is known already; the windows then say only what to add to it, and where they say nothing it stays.
    Where the result would fold (slope above `max_slope`), smoothness grows until it does not.
    """
    if len(matches) < 4:
        return None
    grid = Grid(shape, settings.node_px)
    interpolate = grid.weights_at(matches.centres)
    known = np.zeros((grid.rows * grid.columns, 2)) if prior is None else prior.at(grid.points())
    smoothness = settings.smoothness
    for _ in range(12):
        field = grid.field(known + _consensus(grid, interpolate, matches, settings, smoothness, interpolate @ known))
        if slope(field) <= settings.max_slope:
            return field
        smoothness *= 3.0
    return None


def _consensus(
    grid: Grid,
    interpolate: sparse.csr_matrix,
    matches: Matches,
    settings: FieldSettings,
    smoothness: float,
    known: Points,
) -> Points:
    """float64[nodes, 2]: what is to be added to `known`, the displacement of the windows before."""
    expected: Points | None = None
    nodes = np.zeros((grid.rows * grid.columns, 2))
    # the robust scale never lies below the step of the surfaces
    robust = max(settings.robust_px, 1.5 * matches.px)
    for reach in _REACHES:
        peaks = find_peaks(matches, expected, reach * robust)
        nodes = grid.solve(interpolate, peaks.shifts - known, peak_weights(peaks, expected, robust), smoothness)
        expected = known + interpolate @ nodes
    return nodes


def typical_slope(field: DisplacementField) -> float:
    """Root mean square of how much the displacement changes per length, the whole image's own stretch aside."""
    values = field.values_px0.astype(np.float64)
    if min(values.shape[:2]) < 2:
        return 0.0
    changes = [np.diff(values, axis=a) / field.spacing_px0[1 - a] for a in (0, 1)]
    return float(np.sqrt(np.mean([((c - c.mean(axis=(0, 1))) ** 2).sum(-1).mean() / 2 for c in changes])))


def slope(field: DisplacementField) -> float:
    """Largest spectral norm of ∂u over the field."""
    return float(slopes(field).max(initial=0.0))


def slopes(field: DisplacementField) -> npt.NDArray[np.float64]:
    """float64[rows − 1, columns − 1]: largest spectral norm of ∂u in each cell (bilinear: at one of its corners)."""
    values = field.values_px0.astype(np.float64)
    if min(values.shape[:2]) < 2:
        return np.zeros((0, 0))
    dx = np.diff(values, axis=1) / field.spacing_px0[0]
    dy = np.diff(values, axis=0) / field.spacing_px0[1]
    largest = np.zeros((values.shape[0] - 1, values.shape[1] - 1))
    for upper in (
        0,
        1,
    ):  # every corner of a cell: the x slope of its upper or lower side, the y slope of its left or right side
        for left in (0, 1):
            along_x = dx[upper : dx.shape[0] - 1 + upper]
            along_y = dy[:, left : dy.shape[1] - 1 + left]
            largest = np.maximum(largest, _spectral(along_x, along_y))
    return largest


def _spectral(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Largest singular value of the 2 × 2 matrices with columns a and b (float64[..., 2])."""
    aa, bb, ab = (a * a).sum(-1), (b * b).sum(-1), (a * b).sum(-1)
    result: npt.NDArray[np.float64] = np.sqrt((aa + bb) / 2 + np.sqrt(((aa - bb) / 2) ** 2 + ab**2))
    return result
