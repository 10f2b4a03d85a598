"""Where the tissue lies on the two slides: canvases, the affine map and the elastic displacement between them.

The truth is the product's own `PairTransform`: one formula for both.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from virtual_stain.config.phantom import PhantomSettings
from virtual_stain.geometry import Affine2D, Points, Size
from virtual_stain.phantom.atlas import ATLAS_UM, Atlas
from virtual_stain.phantom.noise import rng_for, smooth_field
from virtual_stain.registration.transform import DisplacementField, PairTransform

# the largest change of the displacement per px: well below 1, so that it can be inverted and nothing folds
_MAX_GRADIENT = 0.25
# canvases end on whole cells of the coarsest pyramid level and of the NDPI restart intervals
_GRAIN_PX = 64


@dataclass(frozen=True, slots=True, eq=False)
class Pose:
    """Two canvases and the transform between them."""

    he_size: Size
    ihc_size: Size
    transform: PairTransform
    control_x_px0: float | None
    """Left edge of the strip with control tissue on the IHC slide, None without."""


def control_um(settings: PhantomSettings) -> float:
    """Side of the control tissue, µm."""
    return float(np.clip(400 * settings.size_mm, 350, 900))


def canvas_um(seed: int, settings: PhantomSettings) -> tuple[float, float]:
    """(width, height) of the H&E canvas, µm: the tissue, the margin, and a little more on each axis."""
    rng = rng_for(seed, "canvas")
    side = settings.size_mm * 1000 + 2000 * settings.margin_mm
    extra = rng.uniform(0, 0.05, 2) * side
    width, height = (_rounded((side + e) / settings.he_mpp) * settings.he_mpp for e in extra)
    return width, height


def make_pose(seed: int, atlas: Atlas, canvas: tuple[float, float], settings: PhantomSettings) -> Pose:
    """Draws the transform and fits the IHC canvas around the moved tissue."""
    he_size = Size(round(canvas[0] / settings.he_mpp), round(canvas[1] / settings.he_mpp))
    rng = rng_for(seed, "pose")
    angle = np.deg2rad(rng.uniform(-180, 180) if settings.rotation_deg is None else settings.rotation_deg)
    mirror = bool(rng.random() < 0.5) if settings.mirror is None else settings.mirror
    stretch = 1 + rng.uniform(-1, 1, 2) * settings.stretch_fraction
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear_um = turn @ np.diag(stretch) @ np.diag([-1.0 if mirror else 1.0, 1.0])
    displacement = _displacement(rng_for(seed, "elastic"), he_size, settings)

    margin = settings.margin_mm * 1000
    moved = _outline_points(atlas) @ linear_um.T
    low, high = moved.min(axis=0) - margin, moved.max(axis=0) + margin
    control = control_um(settings) + 100 + margin if "control" in settings.artefacts else 0.0
    extra = rng.uniform(0, 0.04, 2) * (high - low)
    width, height = (high - low) + extra + [control, 0.0]
    height = max(height, control + margin) if control else height
    ihc_size = Size(_rounded(width / settings.ihc_mpp), _rounded(height / settings.ihc_mpp))

    matrix = np.eye(3)
    matrix[:2, :2] = linear_um * settings.he_mpp / settings.ihc_mpp
    matrix[:2, 2] = (extra * rng.random(2) - low) / settings.ihc_mpp
    transform = PairTransform(Affine2D("ihc_px0", "he_px0", matrix), displacement)
    control_x = ihc_size.width - control / settings.ihc_mpp if control else None
    return Pose(he_size, ihc_size, transform, control_x)


def landmarks(
    seed: int, atlas: Atlas, transform: PairTransform, he_mpp: float, count: int = 60
) -> tuple[Points, Points]:
    """Corresponding points inside the tissue: float64[N, 2] he_px0 and ihc_px0."""
    rng = rng_for(seed, "landmarks")
    inside = np.argwhere(atlas.tissue > 20)
    if not len(inside):
        inside = np.argwhere(atlas.tissue > 0)
    chosen = inside[rng.integers(0, len(inside), count)]
    he = (chosen[:, ::-1] + rng.random((count, 2))) * (ATLAS_UM / he_mpp)
    return he, transform.to_ihc(he)


def _rounded(px: float) -> int:
    return int(np.ceil(px / _GRAIN_PX)) * _GRAIN_PX


def _outline_points(atlas: Atlas) -> Points:
    """float64[N, 2]: the tissue's pixels on the rim, world µm."""
    rows, columns = np.nonzero((atlas.tissue > -20) & (atlas.tissue < 20))
    points: Points = np.stack([columns + 0.5, rows + 0.5], axis=1) * ATLAS_UM
    return points


def _displacement(rng: np.random.Generator, size: Size, settings: PhantomSettings) -> DisplacementField | None:
    if settings.elastic_um == 0:
        return None
    spacing = settings.elastic_scale_um / 4 / settings.he_mpp
    columns, rows = (int(np.ceil(n / spacing)) + 2 for n in (size.width, size.height))
    field = np.stack([smooth_field(rng, (rows, columns), 4.0) for _ in range(2)], axis=-1)
    field *= settings.elastic_um / settings.he_mpp / max(float(np.hypot(field[..., 0], field[..., 1]).max()), 1e-6)
    steepest = max((float(np.abs(np.diff(field, axis=a)).max()) / spacing for a in (0, 1)), default=0.0)
    if steepest > _MAX_GRADIENT:
        field *= _MAX_GRADIENT / steepest
    origin = (-0.5 * spacing, -0.5 * spacing)
    return DisplacementField(origin, (spacing, spacing), field.astype(np.float32))
