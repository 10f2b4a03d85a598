"""The tissue of one patient on a coarse grid: outline, nests, lumens, vessels, fat, fibres, fields.

Maps are float32[h, w] over the H&E canvas at ATLAS_UM per pixel, in the frame "world" (µm from the H&E slide's
origin). Levels are signed distances in µm, roughly: positive inside.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from virtual_stain.config.phantom import PhantomBiology
from virtual_stain.geometry import Points
from virtual_stain.phantom.noise import Image, rng_for, smooth_field

ATLAS_UM = 4.0


@dataclass(frozen=True, slots=True, eq=False)
class Atlas:
    """Where what is. All maps share one shape."""

    tissue: Image
    nest: Image
    hole: Image
    """Lumens, vessels and fat cells: positive is glass (or blood)."""
    blood: Image
    """Positive inside vessels that are filled with red cells."""
    fat: Image
    psi: Image
    """Coordinate across the collagen fibres, µm: fibres run along its isolines."""
    phi: Image
    """Coordinate along them, µm."""
    immune: Image
    """0–1: lymphocyte density."""
    proliferation: Image
    """Standardized field s within the tissue."""
    morphology: Image
    """Standardized field m within the tissue; correlation with s is the coupling."""

    @property
    def shape(self) -> tuple[int, int]:
        return self.tissue.shape[0], self.tissue.shape[1]

    def at(self, field: Image, world_um: Points) -> npt.NDArray[np.float64]:
        """float64[N]: `field` at points of the world, bilinear, edge values outside."""
        p = np.asarray(world_um, np.float64) / ATLAS_UM - 0.5
        height, width = field.shape
        x, y = np.clip(p[:, 0], 0, width - 1.001), np.clip(p[:, 1], 0, height - 1.001)
        i, j = x.astype(np.intp), y.astype(np.intp)
        u, v = x - i, y - j
        result: npt.NDArray[np.float64] = (field[j, i] * (1 - u) + field[j, i + 1] * u) * (1 - v) + (
            field[j + 1, i] * (1 - u) + field[j + 1, i + 1] * u
        ) * v
        return result


def build_atlas(seed: int, canvas_um: tuple[float, float], size_um: float, biology: PhantomBiology) -> Atlas:
    """The tissue of one patient: a blob of about `size_um` in the middle of a canvas of (width, height) µm."""
    shape = (int(np.ceil(canvas_um[1] / ATLAS_UM)), int(np.ceil(canvas_um[0] / ATLAS_UM)))
    tissue = _outline(rng_for(seed, "outline"), shape, size_um)
    inside = tissue > 0
    fat = _fat_region(rng_for(seed, "fat"), tissue)
    nest = _nests(rng_for(seed, "nests"), tissue, fat, biology.nest_fraction)
    lumens, vessels, blood = _lumens(rng_for(seed, "lumens"), tissue, nest, fat)
    psi, phi = _fibres(rng_for(seed, "fibres"), tissue, nest)
    fat_cells = _fat_cells(rng_for(seed, "fat cells"), fat)
    proliferation, morphology = _fields(rng_for(seed, "fields"), inside, biology)
    rng = rng_for(seed, "immune")
    immune = np.clip(smooth_field(rng, shape, 35) * 0.5 + smooth_field(rng, shape, 12) * 0.3 - 0.35, 0, 1)
    return Atlas(
        tissue=tissue,
        nest=np.minimum(nest, -vessels - 6),
        hole=np.maximum(np.maximum(lumens, vessels), fat_cells),
        blood=blood,
        fat=fat,
        psi=psi,
        phi=phi,
        immune=immune.astype(np.float32),
        proliferation=proliferation,
        morphology=morphology,
    )


def neighbouring_section(atlas: Atlas, seed: int) -> Atlas:
    """The same tissue a few µm deeper: the borders of nests and lumens have moved a little."""
    rng = rng_for(seed, "neighbour")
    shift = smooth_field(rng, atlas.shape, 9) * 3.0
    return replace(
        atlas,
        nest=atlas.nest + shift,
        hole=np.where(atlas.fat > -30, atlas.hole, atlas.hole + smooth_field(rng, atlas.shape, 6) * 1.5),
        tissue=atlas.tissue + smooth_field(rng, atlas.shape, 15) * 4,
        phi=atlas.phi + smooth_field(rng, atlas.shape, 20) * 12,
    )


def _grid(shape: tuple[int, int]) -> tuple[Image, Image]:
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    return (x + 0.5) * ATLAS_UM, (y + 0.5) * ATLAS_UM


def _outline(rng: np.random.Generator, shape: tuple[int, int], size_um: float) -> Image:
    x, y = _grid(shape)
    dx, dy = x - shape[1] * ATLAS_UM / 2, y - shape[0] * ATLAS_UM / 2
    theta = np.arctan2(dy, dx)
    # a rounded square with lobes: irregular and without symmetry, so that its pose can be found
    power = 3.2
    radius = (np.abs(dx) ** power + np.abs(dy) ** power) ** (1 / power)
    edge = np.full(shape, size_um / 2 * 0.93, np.float32)
    for k, share in ((1, 0.030), (2, 0.035), (3, 0.03), (5, 0.02)):
        edge += size_um / 2 * share * np.cos(k * theta + rng.uniform(0, 2 * np.pi)).astype(np.float32)
    level = edge - radius + smooth_field(rng, shape, 22) * min(35.0, size_um * 0.015)
    level += smooth_field(rng, shape, 5) * 6
    # a notch from one side: a strong landmark of the outline
    angle = rng.uniform(0, 2 * np.pi)
    cx, cy = np.cos(angle) * size_um * 0.5, np.sin(angle) * size_um * 0.5
    notch = np.hypot(dx - cx, dy - cy) - size_um * 0.13 + smooth_field(rng, shape, 12) * 15
    frame = np.minimum(np.minimum(x, y), np.minimum(shape[1] * ATLAS_UM - x, shape[0] * ATLAS_UM - y)) - 12
    result: Image = np.minimum(np.minimum(level, notch), frame).astype(np.float32)
    return result


def _signed_um(field: Image, threshold: float) -> Image:
    """A noise field as a rough signed distance to its level set, µm."""
    gy, gx = np.gradient(field)
    slope = float(np.sqrt((gx**2 + gy**2).mean())) / ATLAS_UM
    result: Image = ((field - threshold) / slope).astype(np.float32)
    return result


def _distance_um(inside: npt.NDArray[np.bool_]) -> Image:
    """Signed distance to the border of a mask, µm, smoothed over about a pixel."""
    mask = inside.astype(np.uint8)
    outer = np.asarray(cv2.distanceTransform(1 - mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE), np.float32)
    inner = np.asarray(cv2.distanceTransform(mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE), np.float32)
    signed = (np.maximum(inner - 0.5, 0) - np.maximum(outer - 0.5, 0)) * np.float32(ATLAS_UM)
    return np.asarray(cv2.GaussianBlur(signed, (0, 0), 0.9), np.float32)


def _fat_region(rng: np.random.Generator, tissue: Image) -> Image:
    field = smooth_field(rng, (tissue.shape[0], tissue.shape[1]), 45) - np.clip(tissue, 0, 900) / 500
    inside = tissue > 0
    threshold = float(np.quantile(field[inside], 0.93)) if inside.any() else 0.0
    return _signed_um(field, threshold)


def _nests(rng: np.random.Generator, tissue: Image, fat: Image, fraction: float) -> Image:
    shape = (tissue.shape[0], tissue.shape[1])
    field = smooth_field(rng, shape, 11) + 0.8 * smooth_field(rng, shape, 26) + 0.25 * smooth_field(rng, shape, 4)
    field *= 0.45
    # the zero lines of other fields are septa that cut the tumour into nests
    for sigma, width, depth in ((20.0, 0.24, 2.2), (13.0, 0.17, 1.5)):
        field -= depth * np.exp(-((smooth_field(rng, shape, sigma) / width) ** 2)).astype(np.float32)
    usable = (tissue > 25) & (fat < -15)
    inside = tissue > 0
    if not usable.any():
        return np.full(shape, -100, np.float32)
    share = min(0.97, fraction * np.count_nonzero(inside) / np.count_nonzero(usable))
    field = field.astype(np.float32)
    level = _distance_um(field > np.quantile(field[usable], 1 - share))
    result: Image = np.minimum(np.minimum(level, tissue - 25), -fat - 15).astype(np.float32)
    return result


def _lumens(rng: np.random.Generator, tissue: Image, nest: Image, fat: Image) -> tuple[Image, Image, Image]:
    """Gland lumens in the nests, vessels in the stroma, and which vessels hold blood."""
    shape = (tissue.shape[0], tissue.shape[1])
    lumens = np.full(shape, -100, np.float32)
    vessels = np.full(shape, -100, np.float32)
    blood = np.full(shape, -100, np.float32)
    tissue_mm2 = float(np.count_nonzero(tissue > 0)) * ATLAS_UM**2 / 1e6
    for _ in range(rng.poisson(11 * tissue_mm2)):
        where = _pick(rng, (nest > 18) & (lumens < -20))
        if where is not None:
            _draw_ellipse(rng, (lumens,), where, (7.0, 24.0))
    for _ in range(rng.poisson(7 * tissue_mm2)):
        where = _pick(rng, (nest < -10) & (tissue > 30) & (fat < -40) & (vessels < -40))
        if where is not None:
            filled = rng.random() < 0.6
            _draw_ellipse(rng, (vessels, blood) if filled else (vessels,), where, (6.0, 22.0))
    return lumens, vessels, blood


def _pick(rng: np.random.Generator, mask: npt.NDArray[np.bool_]) -> tuple[int, int] | None:
    height, width = mask.shape
    for _ in range(60):
        row, column = int(rng.integers(height)), int(rng.integers(width))
        if mask[row, column]:
            return row, column
    return None


def _draw_ellipse(
    rng: np.random.Generator, levels: tuple[Image, ...], where: tuple[int, int], radius_um: tuple[float, float]
) -> None:
    """Raises each of `levels` to the signed distance of one wobbly ellipse."""
    a = rng.uniform(*radius_um)
    b = a * rng.uniform(0.45, 1.0)
    turn, wobble = rng.uniform(0, np.pi), rng.uniform(0, 2 * np.pi, 2)
    reach = int((a + 50) / ATLAS_UM)
    rows = slice(max(0, where[0] - reach), where[0] + reach)
    columns = slice(max(0, where[1] - reach), where[1] + reach)
    y, x = np.mgrid[
        rows.start : min(rows.stop, levels[0].shape[0]), columns.start : min(columns.stop, levels[0].shape[1])
    ]
    dx, dy = (x - where[1]) * ATLAS_UM, (y - where[0]) * ATLAS_UM
    u, v = dx * np.cos(turn) + dy * np.sin(turn), -dx * np.sin(turn) + dy * np.cos(turn)
    theta = np.arctan2(v / b, u / a)
    edge = 1 + 0.12 * np.cos(2 * theta + wobble[0]) + 0.08 * np.cos(3 * theta + wobble[1])
    distance = ((edge - np.hypot(u / a, v / b)) * np.sqrt(a * b)).astype(np.float32)
    for level in levels:
        np.maximum(level[rows, columns], distance, out=level[rows, columns])


def _fibres(rng: np.random.Generator, tissue: Image, nest: Image) -> tuple[Image, Image]:
    shape = (nest.shape[0], nest.shape[1])
    x, y = _grid(shape)
    angle = rng.uniform(0, np.pi)
    bend = smooth_field(rng, shape, 40) * 110 + smooth_field(rng, shape, 14) * 22
    bend += smooth_field(rng, shape, 4.5) * 5
    # fibres follow the borders of nests and of the tissue, without creases half-way between two borders
    around = cv2.GaussianBlur(np.clip(nest, -40, 10), (0, 0), 4) * 0.9
    around = around - cv2.GaussianBlur(np.clip(tissue, -20, 60), (0, 0), 3) * 2.5
    psi = x * np.cos(angle) + y * np.sin(angle) + bend + around
    phi = -x * np.sin(angle) + y * np.cos(angle) + smooth_field(rng, shape, 40) * 110
    return psi.astype(np.float32), phi.astype(np.float32)


def _fat_cells(rng: np.random.Generator, fat: Image) -> Image:
    """Level of the fat cells' insides: Voronoi cells of about 55 µm with thin walls."""
    level = np.full(fat.shape, -100, np.float32)
    # a little beyond the region, so that the level falls smoothly through its border
    where = np.argwhere(fat > -30)
    if np.count_nonzero(fat > 0) < 50:
        return level
    pitch_um = 52.0
    n = max(4, int(len(where) * ATLAS_UM**2 / pitch_um**2 * 1.6))
    seeds = where[rng.choice(len(where), min(n, len(where)), replace=False)] * ATLAS_UM
    tree = cKDTree(seeds)
    keep = np.ones(len(seeds), bool)
    for i, j in sorted(tree.query_pairs(pitch_um * 0.62)):
        if keep[i]:
            keep[j] = False
    if np.count_nonzero(keep) < 3:
        return level
    distance, _ = cKDTree(seeds[keep]).query(where * ATLAS_UM, k=2)
    wall = (distance[:, 1] - distance[:, 0]) / 2 - 2.0
    rounded = 27.0 - distance[:, 0] * 0.8
    level[where[:, 0], where[:, 1]] = np.minimum(np.minimum(wall, rounded), fat[where[:, 0], where[:, 1]])
    return level


def _fields(rng: np.random.Generator, inside: npt.NDArray[np.bool_], biology: PhantomBiology) -> tuple[Image, Image]:
    """Proliferation s and morphology m = coupling · s + rest; both of mean 0 and sd 1 over the tissue.

    The rest is made orthogonal to s over this tissue: the correlation is the coupling on every patient, and the
    ceiling of what H&E can tell does not depend on luck.
    """
    sigma = biology.field_scale_um / ATLAS_UM
    shape = (inside.shape[0], inside.shape[1])

    def standardized(field: Image) -> Image:
        values = field[inside]
        result: Image = ((field - values.mean()) / max(float(values.std()), 1e-6)).astype(np.float32)
        return result

    def field() -> Image:
        mixed = smooth_field(rng, shape, sigma) + 0.45 * smooth_field(rng, shape, sigma * 0.45)
        return standardized(mixed.astype(np.float32))

    s, other = field(), field()
    other = standardized(other - s * np.float32((other[inside] * s[inside]).mean()))
    m = biology.coupling * s + np.sqrt(1 - biology.coupling**2) * other
    # values far outside the tissue mean nothing; keep them bounded
    return np.clip(s, -3, 3).astype(np.float32), np.clip(m, -3, 3).astype(np.float32)


def world_points(atlas: Atlas) -> Points:
    """float64[h · w, 2]: centres of the atlas pixels, row by row, µm."""
    rows, columns = np.mgrid[: atlas.shape[0], : atlas.shape[1]]
    points: Points = (np.stack([columns.ravel(), rows.ravel()], axis=1) + 0.5) * ATLAS_UM
    return points


def tissue_area_um2(atlas: Atlas) -> float:
    """Area inside the outline, holes included, µm²."""
    return float(np.count_nonzero(atlas.tissue > 0)) * ATLAS_UM**2


def atlas_pixels(level: Image, world_um: npt.NDArray[np.float32], border: int = cv2.BORDER_REPLICATE) -> Image:
    """float32[h, w] (or [h, w, C]): maps sampled at float32[h, w, 2] points of the world."""
    maps = world_um * np.float32(1 / ATLAS_UM) - np.float32(0.5)
    return np.asarray(cv2.remap(level, maps[..., 0], maps[..., 1], cv2.INTER_LINEAR, borderMode=border), np.float32)
