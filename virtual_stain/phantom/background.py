"""Everything between the nuclei: collagen, cytoplasm, cell borders, lumens, blood, fat."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from virtual_stain.phantom.atlas import Atlas, atlas_pixels
from virtual_stain.phantom.noise import Image, periodic_noise, rng_for, smoothstep, wrapped

_SIDE = 1024


@dataclass(frozen=True, slots=True, eq=False)
class Textures:
    """Seamless noise of one resolution, float32[1024, 1024], standard deviation 1."""

    fibres: Image
    """x across the fibres (0.5 µm per px), y along them (5 µm per px)."""
    grain: Image
    """Fine grain of cytoplasm, slide px."""
    mottle: Image
    """Coarser mottling, slide px."""


@functools.lru_cache(maxsize=4)
def textures(mpp: float) -> Textures:
    """Textures in the pixels of a slide of `mpp` µm/px."""
    rng = rng_for(0, "textures", round(mpp * 1000))
    return Textures(
        fibres=_fibres(),
        grain=periodic_noise(rng, _SIDE, 0.45 / mpp, 0.45 / mpp),
        mottle=periodic_noise(rng, _SIDE, 2.6 / mpp, 2.6 / mpp),
    )


@functools.lru_cache(maxsize=1)
def _fibres() -> Image:
    rng = rng_for(0, "fibres")
    noise = np.sum([periodic_noise(rng, _SIDE, x, y) for x, y in ((1.0, 3.0), (2.5, 5.0), (9.0, 12.0))], axis=0)
    result: Image = (noise / np.std(noise)).astype(np.float32)
    return result


@dataclass(frozen=True, slots=True, eq=False)
class Ground:
    """Soft masks of one block, float32[h, w] in 0–1, and its textures."""

    tissue: Image
    """Tissue without holes."""
    nest: Image
    blood: Image
    fibre: Image
    grain: Image
    mottle: Image
    cleft: Image
    """1 where a shrinkage cleft opens around a nest."""


def ground(atlas: Atlas, world_um: npt.NDArray[np.float32], origin_px0: tuple[int, int], mpp: float) -> Ground:
    """Samples the atlas at float32[h, w, 2] points of the world; None of it depends on the block's borders."""
    height, width = world_um.shape[:2]
    tex = textures(mpp)
    grain = wrapped(tex.grain, *origin_px0, width, height)
    mottle = wrapped(tex.mottle, *origin_px0, width, height)
    levels = atlas_pixels(_sampled_maps(atlas), world_um)
    wobble = mottle * np.float32(0.7)
    tissue = smoothstep(levels[..., 0] + 3 * wobble, -0.7, 0.9)
    hole = smoothstep(levels[..., 2] + wobble * 0.5, -0.5, 0.5)
    blood = smoothstep(levels[..., 3] + wobble, -0.2, 1.0)
    nest_level = levels[..., 1] + wobble
    nest = smoothstep(nest_level, -0.6, 0.6)
    cleft = smoothstep(2.0 - np.abs(nest_level + 1.6), 0, 0.8) * smoothstep(levels[..., 4], 0.7, 1.1)
    fibre = cv2.remap(
        tex.fibres,
        levels[..., 5] * np.float32(1 / 0.5),
        levels[..., 6] * np.float32(1 / 5.0),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_WRAP,
    )
    return Ground(tissue * (1 - hole), nest, blood * tissue, np.asarray(fibre, np.float32), grain, mottle, cleft)


def _solid(g: Ground) -> Image:
    """Where there is matter: not in shrinkage clefts, and not in the widest gaps between collagen bundles."""
    gaps = smoothstep(-g.fibre, 1.9, 2.3) * (1 - g.nest)
    result: Image = g.tissue * (1 - 0.9 * g.cleft) * (1 - 0.85 * gaps)
    return result


def he_layers(g: Ground, borders: Image | None) -> Image:
    """float32[h, w, 3]: amounts of hematoxylin, eosin and red-cell pigment."""
    stroma = 1 - g.nest
    collagen = np.clip(0.37 + 0.105 * g.fibre + 0.03 * g.grain + 0.02 * g.mottle, 0.05, 0.85)
    cytoplasm = 0.34 + 0.035 * g.grain + 0.045 * g.mottle
    if borders is not None:
        cytoplasm += borders
    solid = _solid(g)
    layers = np.empty((*g.tissue.shape, 3), np.float32)
    layers[..., 0] = solid * (0.035 * stroma + (0.13 + 0.02 * g.grain + 0.02 * g.mottle) * g.nest)
    layers[..., 1] = solid * (collagen * stroma + cytoplasm * g.nest)
    layers[..., 2] = g.blood * np.clip(0.42 + 0.16 * g.mottle + 0.05 * g.grain, 0, 0.8)
    return layers


def ihc_layers(g: Ground, borders: Image | None) -> Image:
    """float32[h, w, 3]: amounts of hematoxylin, faint background and DAB."""
    stroma = 1 - g.nest
    collagen = np.clip(0.075 + 0.032 * g.fibre + 0.006 * g.grain, 0.01, 0.3)
    cytoplasm = 0.07 + 0.011 * g.grain + 0.013 * g.mottle
    if borders is not None:
        cytoplasm += borders * np.float32(0.4)
    solid = _solid(g)
    layers = np.empty((*g.tissue.shape, 3), np.float32)
    layers[..., 0] = solid * ((0.04 + 0.008 * g.fibre) * stroma + (0.065 + 0.01 * g.grain + 0.008 * g.mottle) * g.nest)
    layers[..., 1] = solid * (collagen * stroma + cytoplasm * g.nest) + g.blood * 0.14
    layers[..., 2] = solid * (0.012 + 0.004 * g.mottle) + g.blood * np.clip(0.03 + 0.01 * g.mottle, 0, 1)
    return np.maximum(layers, 0, out=layers)


def cell_borders(
    seeds_px: npt.NDArray[np.float64], tint: npt.NDArray[np.float32], shape: tuple[int, int], mpp: float
) -> Image | None:
    """float32[h, w]: change of cytoplasm per cell (Voronoi cells of the nuclei), paler along their borders."""
    columns, rows = np.floor(seeds_px[:, 0]).astype(np.intp), np.floor(seeds_px[:, 1]).astype(np.intp)
    inside = (columns >= 0) & (rows >= 0) & (columns < shape[1]) & (rows < shape[0])
    if not inside.any():
        return None
    blank = np.full(shape, 255, np.uint8)
    blank[rows[inside], columns[inside]] = 0
    _, labels = cv2.distanceTransformWithLabels(blank, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    tints = np.zeros(int(labels.max()) + 1, np.float32)
    tints[labels[rows[inside], columns[inside]]] = tint[inside]
    result: Image = tints[labels]
    edge = np.zeros(shape, np.float32)
    edge[:, 1:] = labels[:, 1:] != labels[:, :-1]
    edge[1:] += labels[1:] != labels[:-1]
    sigma = 0.35 / mpp
    soft = np.asarray(cv2.GaussianBlur(np.minimum(edge, 1), (0, 0), max(sigma, 0.5)), np.float32)
    result -= soft * np.float32(0.22 * max(1.0, sigma))
    return result


@functools.lru_cache(maxsize=2)
def _sampled_maps(atlas: Atlas) -> Image:
    """The maps that every block samples, float32[h, w, 7]; the two last atlases' are kept (section and control)."""
    waves = atlas.phi - np.asarray(cv2.GaussianBlur(atlas.phi, (0, 0), 12), np.float32)
    retraction = np.asarray(cv2.GaussianBlur(waves, (0, 0), 2), np.float32)
    retraction = retraction / max(float(retraction.std()), 1e-6)
    maps = (atlas.tissue, atlas.nest, atlas.hole, atlas.blood, retraction, atlas.psi, atlas.phi)
    stacked = np.empty((*atlas.shape, len(maps)), np.float32)
    for k, level in enumerate(maps):
        stacked[..., k] = level
    return stacked
