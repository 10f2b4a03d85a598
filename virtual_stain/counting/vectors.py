"""The two stains' directions in optical density, from one slide's own pixels.

Blue and brown lie on two sides of grey in `hue`, whatever the scanner; so a fixed border finds the two populations
and a percentile inside each finds its pure end (after Macenko et al., ISBI 2009, who take extreme angles of one
common cloud; here each side is looked at by itself, so that one stain may be rare or missing).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from virtual_stain.counting.optical_density import (
    F32,
    PUBLISHED_DAB,
    PUBLISHED_HEMATOXYLIN,
    Vector,
    hue,
)

HEMATOXYLIN_FAINT = "hematoxylin_vector_from_faint_pixels"
HEMATOXYLIN_PUBLISHED = "hematoxylin_vector_published"
DAB_PUBLISHED = "dab_vector_published"
NOT_SEPARABLE = "stains_not_separable"
OTHER_STAIN = "not_hematoxylin_and_dab"
GREY = "neither_blue_nor_brown"
SECOND_COLOUR = "second_colour_not_brown"

_BLUE_BELOW, _BROWN_ABOVE = -0.10, 0.0  # hue; published vectors: −0.22 and + 0.32
_FAINT_OD = 0.10  # summed density below which hue is noise
_VERY_FAINT_OD = 0.05  # … and below which even the median of many is: where nothing denser is blue
_VERY_FAINT_SHARE = 0.02  # of the pixels above it, that must be blue then
_BROWN_OD = 0.30  # brown is only sure in denser pixels: pale yellowish tissue is not DAB
_SATURATED_OD = 1.2  # in any channel: the camera's black, where hue is lost
_MIN_PIXELS = 300
_MIN_SHARE = 1e-4  # of the stained pixels
_MIN_ANGLE_DEG = 12.0
_PURE_SHARE = 0.5  # half of each side, the half further from the other stain
# DAB absorbs blue most; a second stain that absorbs green more, by this much, is eosin or a red dye. Of unit vectors:
# real DAB, pinkish cameras included, −0.29 to 0.04; eosin of real H&E 0.25 to 0.55
_PINK = 0.14
# … and what absorbs hardly any red, or hardly any green, is red, orange or yellow. Shares of the summed density: red of
# real DAB 0.16 to 0.30, of Sirius Red 0.09; green of real DAB 0.31 to 0.37, of a yellow chromogen 0.24
_LEAST_RED, _LEAST_GREEN = 0.12, 0.27
# where nothing is brown: the angle that one in ten of the nuclear pixels is away from their usual colour. Drawn slides
# of a blue, teal, green, purple or grey chromogen have 7.4° to 16.5°, all negative ones 0.8° to 4.8°, with pale nuclei
# up to 8.9°
TWO_COLOURS_DEG = 6.5
# hue below which what was taken for DAB may be a grey counterstain where nothing is blue; real DAB has 0.10 to 0.31
_GREY_BELOW = 0.09


@dataclass(frozen=True, slots=True)
class StainVectors:
    """Unit vectors (R, G, B) and what to know about them."""

    hematoxylin: Vector
    dab: Vector
    flags: tuple[str, ...]


def estimate_vectors(density: F32) -> StainVectors:
    """`density`: float32[N, 3], optical density of a sample of smoothed pixels of one slide."""
    total = density.sum(axis=1)
    unsaturated = density.max(axis=1) < _SATURATED_OD
    stained = (total > _FAINT_OD) & unsaturated
    if np.count_nonzero(stained) < _MIN_PIXELS:
        return StainVectors(unit(PUBLISHED_HEMATOXYLIN), unit(PUBLISHED_DAB), (HEMATOXYLIN_PUBLISHED, DAB_PUBLISHED))
    # the denser part of what is stained: cytoplasm and haze say little about the hue of nuclei
    dense = max(_FAINT_OD, float(np.percentile(total[stained], 50)))
    d, s = density[stained & (total >= dense)], total[stained & (total >= dense)]
    h = hue(d)
    hematoxylin = _pure_end(d, h, h < _BLUE_BELOW, towards=-1)
    dab = _pure_end(d, h, (h > _BROWN_ABOVE) & (s > _BROWN_OD), towards=1)
    if dab is not None and hematoxylin is not None and (max(dab) - min(dab)) / sum(dab) < _GREY_BELOW:
        dab = None  # black grains, pen: brown is browner
    flags: list[str] = []
    if hematoxylin is None:
        hematoxylin = _faint_hematoxylin(density[(total > _VERY_FAINT_OD) & unsaturated])
        flags.append(HEMATOXYLIN_PUBLISHED if hematoxylin is None else HEMATOXYLIN_FAINT)
    if hematoxylin is None:
        hematoxylin = unit(PUBLISHED_HEMATOXYLIN)
    if dab is None:
        dab = unit(PUBLISHED_DAB)
        flags.append(DAB_PUBLISHED)
    angle_deg = float(np.degrees(np.arccos(np.clip(np.dot(hematoxylin, dab), -1, 1))))
    if angle_deg < _MIN_ANGLE_DEG:
        return StainVectors(unit(PUBLISHED_HEMATOXYLIN), unit(PUBLISHED_DAB), (*flags, NOT_SEPARABLE))
    if HEMATOXYLIN_PUBLISHED in flags and (dab[2] - dab[0]) / sum(dab) < _GREY_BELOW:
        return StainVectors(unit(PUBLISHED_HEMATOXYLIN), unit(PUBLISHED_DAB), (*flags, GREY))
    if dab[1] > dab[2] + _PINK or dab[0] < _LEAST_RED * sum(dab) or dab[1] < _LEAST_GREEN * sum(dab):
        flags.append(OTHER_STAIN)
    return StainVectors(hematoxylin, dab, tuple(flags))


def unit(vector: npt.ArrayLike) -> Vector:
    """The vector with Euclidean length 1."""
    v = np.asarray(vector, np.float64)
    r, g, b = (float(x) for x in v / np.linalg.norm(v))
    return r, g, b


def _faint_hematoxylin(density: F32) -> Vector | None:
    """From all pixels: on slides with a very pale counterstain negative nuclei are fainter than haze elsewhere."""
    h = hue(density)
    return _pure_end(density, h, h < _BLUE_BELOW, towards=-1, least=_VERY_FAINT_SHARE)


def hue_spread_deg(density: F32) -> float:
    """Angle that one in ten of the pixels is away from their usual colour. `density`: float32[N, 3], of nuclei."""
    unsaturated = density[(density.max(axis=1) < _SATURATED_OD) & (density.sum(axis=1) > _FAINT_OD)]
    if len(unsaturated) < _MIN_PIXELS:
        return 0.0
    direction = unsaturated / np.linalg.norm(unsaturated, axis=1, keepdims=True)
    usual = np.asarray(unit(np.median(direction, axis=0)), np.float32)
    return float(np.percentile(np.degrees(np.arccos(np.clip(direction @ usual, -1, 1))), 90))


def _pure_end(
    density: F32, h: F32, side: npt.NDArray[np.bool_], *, towards: int, least: float = _MIN_SHARE
) -> Vector | None:
    if np.count_nonzero(side) < max(_MIN_PIXELS, least * len(h)):
        return None
    limit = np.percentile(h[side] * towards, 100 * (1 - _PURE_SHARE))
    pure = density[side & (h * towards >= limit)]
    direction = pure / np.linalg.norm(pure, axis=1, keepdims=True)
    return unit(np.median(direction, axis=0))
