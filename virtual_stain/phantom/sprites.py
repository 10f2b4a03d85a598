"""Nuclei drawn once: outlines and chromatin in unit size, stamped later at any size, angle and sub-pixel position.

A sprite is float32[S, S, 2]: coverage 0–1 and coverage × relative density of chromatin (mean 1 over the nucleus).
It spans ±REACH nuclear radii; the outline encloses the area π.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from virtual_stain.phantom.cells import N_SHAPES
from virtual_stain.phantom.noise import Image, periodic_noise, rng_for, smoothstep

REACH = 1.45
N_CHROMATIN = 6


@dataclass(frozen=True, slots=True, eq=False)
class SpriteBank:
    """All sprites of one resolution."""

    side: int
    round_nuclei: tuple[tuple[Image, ...], ...]
    """[chromatin bin][shape]: tumour nuclei."""
    lymphocytes: tuple[Image, ...]
    spindles: tuple[Image, ...]
    mitoses: tuple[Image, ...]
    vesicles: tuple[Image, ...]
    """Tumour nuclei whose chromatin lies at the border: what `Nuclei.chromatin` above 1 is."""

    def chromatin_bin(self, chromatin: float) -> int:
        return min(N_CHROMATIN - 1, int(chromatin * N_CHROMATIN))


def sprite_bank(mpp: float) -> SpriteBank:
    """Sprites fine enough for `mpp` µm/px."""
    return _bank(int(np.clip(round(14.0 / mpp / 4) * 4, 16, 96)))


@functools.lru_cache(maxsize=4)
def _bank(side: int) -> SpriteBank:
    axis = ((np.arange(side, dtype=np.float32) + 0.5) / side * 2 - 1) * REACH
    x, y = np.meshgrid(axis, axis)
    noise_px = side / (2 * REACH)  # one nuclear radius in px
    rng = rng_for(0, "sprites", side)
    coarse = periodic_noise(rng, 256, 0.17 * noise_px, 0.17 * noise_px)
    fine = periodic_noise(rng, 256, max(0.6, 0.07 * noise_px), max(0.6, 0.07 * noise_px))

    def window(texture: Image) -> Image:
        j, i = rng.integers(0, 256 - side, 2)
        return texture[j : j + side, i : i + side]

    rounds = []
    outlines = [_outline(rng_for(0, "outline", k), x, y) for k in range(N_SHAPES)]
    for step in range(N_CHROMATIN):
        level = step / (N_CHROMATIN - 1)
        rounds.append(tuple(_nucleus(rng, x, y, d, level, window(coarse), window(fine)) for d in outlines))
    return SpriteBank(
        side=side,
        round_nuclei=tuple(rounds),
        lymphocytes=tuple(_filled(d, 1 + 0.22 * window(coarse)) for d in outlines),
        spindles=tuple(_spindle(rng, x, y, window(fine)) for _ in range(N_SHAPES)),
        mitoses=tuple(_mitosis(rng, x, y, window(coarse)) for _ in range(N_SHAPES)),
        vesicles=tuple(_vesicle(rng, x, y, d, window(fine)) for d in outlines),
    )


def _outline(rng: np.random.Generator, x: Image, y: Image) -> Image:
    """Signed distance to a wobbly circle of area π, in radii; positive inside."""
    theta = np.arctan2(y, x)
    edge = np.ones_like(x)
    square = 1.0
    for k, share in ((2, 0.05), (3, 0.045), (4, 0.03), (5, 0.02)):
        amplitude = share * rng.uniform(0.2, 1.0)
        edge += np.float32(amplitude) * np.cos(k * theta + rng.uniform(0, 2 * np.pi)).astype(np.float32)
        square += amplitude**2 / 2
    result: Image = edge / np.float32(np.sqrt(square)) - np.hypot(x, y)
    return result


def _filled(distance: Image, density: Image) -> Image:
    alpha = smoothstep(distance, -0.09, 0.09)
    density = np.clip(density, 0.15, None) * alpha
    mean = float(density.sum() / alpha.sum())
    return np.ascontiguousarray(np.stack([alpha, density / mean], axis=-1), np.float32)


def _nucleus(
    rng: np.random.Generator, x: Image, y: Image, distance: Image, coarse_level: float, coarse: Image, fine: Image
) -> Image:
    """From even and dark (0) to vesicular with clumps, rim and nucleoli (1)."""
    rim = np.exp(-((distance - 0.10) ** 2) / (2 * 0.085**2)).astype(np.float32)
    density = (
        1 + (0.06 + 0.34 * coarse_level) * coarse + (0.10 + 0.08 * coarse_level) * fine + 0.75 * coarse_level * rim
    )
    n_nucleoli = int(rng.integers(1, 4)) if coarse_level > 0.45 else int(rng.random() < 0.25)
    for _ in range(n_nucleoli):
        r, t = 0.55 * np.sqrt(rng.random()), rng.uniform(0, 2 * np.pi)
        size = rng.uniform(0.12, 0.17 + 0.08 * coarse_level)
        spot = np.exp(-((x - r * np.cos(t)) ** 2 + (y - r * np.sin(t)) ** 2) / (2 * size**2)).astype(np.float32)
        density = density + (0.7 + 1.3 * coarse_level) * spot
    return _filled(distance, density.astype(np.float32))


def _vesicle(rng: np.random.Generator, x: Image, y: Image, distance: Image, fine: Image) -> Image:
    """A thin rim of chromatin of uneven strength around a clear middle with one to three nucleoli."""
    theta = np.arctan2(y, x)
    rim = np.exp(-((distance - 0.07) ** 2) / (2 * 0.06**2)).astype(np.float32)
    uneven = 1 + np.float32(0.35) * sum(
        np.cos(k * theta + rng.uniform(0, 2 * np.pi)).astype(np.float32) * np.float32(rng.uniform(0.2, 1))
        for k in (2, 3, 5)
    )
    middle, wall = np.float32(rng.uniform(0.3, 0.7)), np.float32(rng.uniform(0.5, 1.6))
    density = middle + np.float32(0.08) * fine + wall * rim * np.clip(uneven, 0.2, None)
    for _ in range(int(rng.integers(1, 4))):
        r, t = 0.5 * np.sqrt(rng.random()), rng.uniform(0, 2 * np.pi)
        size = rng.uniform(0.09, 0.16)
        spot = np.exp(-((x - r * np.cos(t)) ** 2 + (y - r * np.sin(t)) ** 2) / (2 * size**2)).astype(np.float32)
        density = density + np.float32(1.4) * spot
    return _filled(distance, density.astype(np.float32))


def _of_area_pi(draw: Callable[[Image, Image], Image], x: Image, y: Image) -> Image:
    """A signed distance, stretched so that its outline encloses the area π."""
    inside = float(np.count_nonzero(draw(x, y) > 0)) / x.size * (2 * REACH) ** 2
    factor = np.float32(np.sqrt(inside / np.pi))
    result: Image = (draw(x * factor, y * factor) / factor).astype(np.float32)
    return result


def _spindle(rng: np.random.Generator, x: Image, y: Image, fine: Image) -> Image:
    """Tapered ends; the elongation of the nucleus stretches it further."""
    bend = np.float32(rng.uniform(-0.12, 0.12))

    def draw(u: Image, v: Image) -> Image:
        half = np.sqrt(np.clip(1 - u**2, 0, None)) * (1 - 0.4 * np.minimum(np.abs(u), 1) ** 1.5)
        result: Image = half - np.abs(v + bend * (u**2 - 0.4)) - np.float32(0.02)
        return result

    return _filled(_of_area_pi(draw, x, y), 1 + 0.18 * fine)


def _plate(u: Image, v: Image, half_width: float, half_length: float) -> Image:
    """Signed distance, roughly, to a plate with rounded ends."""
    radius = (np.abs(u / half_width) ** 3 + np.abs(v / half_length) ** 3) ** (1 / 3)
    result: Image = ((1 - radius) * half_width).astype(np.float32)
    return result


def _mitosis(rng: np.random.Generator, x: Image, y: Image, fine: Image) -> Image:
    """Metaphase plate, anaphase pair or prometaphase clump: dark, ragged, without a membrane."""
    kind, apart = int(rng.integers(3)), float(rng.uniform(0.4, 0.5))

    def draw(u: Image, v: Image) -> Image:
        if kind == 0:
            distance = _plate(u, v, 0.36, 0.95)
        elif kind == 1:
            distance = _plate(np.abs(u) - apart - 0.25 * v**2, v, 0.22, 0.75)
        else:
            distance = 0.75 - np.hypot(u, v)
        result: Image = (distance + (0.07 if kind == 2 else 0.03) * fine).astype(np.float32)
        return result

    return _filled(_of_area_pi(draw, x, y), np.ones_like(x))
