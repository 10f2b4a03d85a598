"""How laboratories and cameras differ: the IHC of a phantom, stained and photographed as another place would do it.

This is the IHC side: the density of its nuclei, the colour of the counterstain, the glass and the camera. The H&E side
is in `phantom/he_labs.py`. Which nuclei are positive, and where they lie, stays as the seed drew it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from virtual_stain.phantom.cells import Kind, Nuclei
from virtual_stain.phantom.noise import rng_for
from virtual_stain.phantom.stains import SlideOptics

_LYMPHOCYTE_OD = 1.0
"""Mean hematoxylin of lymphocytes (`Nuclei.hematoxylin_od`), which vesicular nuclei are a share of."""

_SKY_BLUE = (0.86, 0.47, 0.20)
_VIOLET = (0.62, 0.73, 0.29)
_GREY_BLUE = (0.68, 0.60, 0.42)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lab:
    """One way to stain and to photograph; densities are decadic."""

    counterstain: tuple[float, float, float]
    """Direction of the counterstain in optical density, RGB; any length."""
    counterstain_strength: float = 1.0
    positive_from_od: float = 0.08
    """Weakest positive nucleus, mean DAB."""
    positive_shape: float = 1.3
    """Shape of the gamma distribution of what positives have beyond that …"""
    positive_scale_od: float = 0.35
    """… and its scale."""
    negative_scale_od: float = 0.015
    """Mean DAB of the negatives: exponential, so that one in twenty has three times as much."""
    negative_most_od: float = 0.06
    """No negative has more."""
    vesicular: float = 0.0
    """Share of the tumour nuclei that are vesicular: large and pale, with clumps and a rim."""
    vesicular_density: tuple[float, float] = (0.2, 0.5)
    """Their hematoxylin, as a share of a lymphocyte's."""
    clear: bool = False
    """Whether the chromatin of vesicular nuclei is a thin rim around a clear middle."""
    infiltrate: float = 0.0
    """Share of the tumour nuclei whose places negative lymphocytes take: small and dark among large and pale."""
    growth: float = 1.0
    """Factor on the radius of tumour nuclei; above 1 they overlap."""
    glass: tuple[float, float, float] = (243.0, 242.0, 244.0)
    """RGB of empty glass."""
    blur_um: float = 0.25
    noise: float = 1.2
    stray_light: float = 0.0
    """Share of the glass' light that the camera sees everywhere: dark places look paler and greyer."""
    sharpening: float = 0.0
    """How much the camera adds of what is finer than about 0.7 µm."""


LAB: dict[str, Lab] = {
    "tinted": Lab(
        counterstain=_VIOLET, positive_shape=1.2, glass=(226.0, 221.0, 203.0), blur_um=0.5, noise=2.0, stray_light=0.03,
    ),
    "sky_blue": Lab(
        counterstain=_SKY_BLUE, counterstain_strength=0.8, positive_shape=1.2, positive_scale_od=0.7,
        negative_scale_od=0.01, negative_most_od=0.04, vesicular=0.7, infiltrate=0.35,
        sharpening=0.8,
    ),
    "broad": Lab(
        counterstain=(0.78, 0.56, 0.27), positive_from_od=0.3, positive_shape=2.5, positive_scale_od=0.45,
        negative_scale_od=0.09, negative_most_od=0.3, glass=(222.0, 219.0, 210.0), sharpening=0.4,
    ),
    "grey_blue": Lab(
        counterstain=_GREY_BLUE, positive_from_od=0.12, positive_shape=2.5, positive_scale_od=0.1,
        negative_scale_od=0.03, negative_most_od=0.11, glass=(205.0, 205.0, 205.0), blur_um=0.55, noise=2.2,
        stray_light=0.05,
    ),
    "violet": Lab(
        counterstain=_VIOLET, counterstain_strength=0.9, positive_from_od=0.1, positive_shape=1.5,
        positive_scale_od=0.5, negative_scale_od=0.025, negative_most_od=0.1, vesicular=0.6, infiltrate=0.2,
        glass=(236.0, 226.0, 232.0), blur_um=0.4,
    ),
    "clusters": Lab(
        counterstain=(0.74, 0.61, 0.28), positive_from_od=0.3, positive_shape=3.0, positive_scale_od=0.3,
        negative_scale_od=0.02, negative_most_od=0.08, growth=1.3, sharpening=1.0, glass=(232.0, 236.0, 238.0),
    ),
    "vesicular": Lab(
        counterstain=_SKY_BLUE, positive_shape=1.2, positive_scale_od=0.6, negative_scale_od=0.01,
        negative_most_od=0.04, vesicular=0.85, vesicular_density=(0.2, 0.42), clear=True, infiltrate=0.45, growth=1.3,
        sharpening=1.0, blur_um=0.3,
    ),
}  # fmt: skip


def restained(nuclei: Nuclei, seed: int, lab: str) -> Nuclei:
    """The same nuclei with the densities, and vesicular ones with the texture, that they have in `lab`."""
    style = LAB[lab]
    rng = rng_for(seed, "lab", lab)
    nuclei, n = _infiltrated(nuclei, rng, style.infiltrate), len(nuclei)
    weakest = style.positive_from_od + rng.gamma(style.positive_shape, style.positive_scale_od, n)
    negative = np.minimum(rng.exponential(style.negative_scale_od, n), style.negative_most_od)
    vesicular = nuclei.tumour & ~nuclei.mitosis & (rng.random(n) < style.vesicular)
    pale = rng.uniform(*style.vesicular_density, n) * _LYMPHOCYTE_OD
    chromatin = np.where(vesicular, 2.0 if style.clear else rng.uniform(0.75, 1.0, n), nuclei.chromatin)
    grown = np.where(nuclei.tumour, style.growth, 1.0)
    return dataclasses.replace(
        nuclei,
        dab_od=_f32(np.where(nuclei.positive, np.minimum(weakest, 2.0), negative)),
        hematoxylin_od=_f32(np.where(vesicular, _drawn_as(pale), nuclei.hematoxylin_od)),
        chromatin=_f32(chromatin),
        radius_um=_f32(nuclei.radius_um * grown),
    )


def _infiltrated(nuclei: Nuclei, rng: np.random.Generator, share: float) -> Nuclei:
    """With lymphocytes, all negative, in the places of a share of the tumour nuclei."""
    n = len(nuclei)
    immune = nuclei.tumour & (rng.random(n) < share)
    return dataclasses.replace(
        nuclei,
        kind=np.where(immune, Kind.LYMPHOCYTE, nuclei.kind).astype(np.uint8),
        radius_um=_f32(np.where(immune, rng.normal(2.75, 0.17, n).clip(2.3, 3.1), nuclei.radius_um)),
        elongation=_f32(np.where(immune, 1.08, nuclei.elongation)),
        hematoxylin_od=_f32(np.where(immune, rng.normal(_LYMPHOCYTE_OD, 0.08, n), nuclei.hematoxylin_od)),
        mitosis=nuclei.mitosis & ~immune,
        positive=nuclei.positive & ~immune,
    )


def photographed(optics: SlideOptics, seed: int, lab: str) -> SlideOptics:
    """The optics of an IHC slide as `lab` has them, with a little spread from slide to slide."""
    style = LAB[lab]
    rng = rng_for(seed, "camera", lab)
    counterstain = np.asarray(style.counterstain) + rng.normal(0, 0.012, 3)
    vectors = optics.vectors.copy()
    vectors[0] = counterstain / np.linalg.norm(counterstain)
    strength = optics.strength * (style.counterstain_strength, 1.0, 1.0)
    return dataclasses.replace(
        optics,
        vectors=vectors,
        strength=strength,
        background=np.asarray(style.glass) + rng.uniform(-2, 2, 3),
        blur_um=style.blur_um,
        noise=style.noise,
        stray_light=style.stray_light,
        sharpening=style.sharpening,
    )


def _drawn_as(share: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """`Nuclei.hematoxylin_od` of what is to have a share of a lymphocyte's *counterstain* (phantom/stamp.py)."""
    drawn = 0.62 * _LYMPHOCYTE_OD + 0.06
    return np.asarray((share * drawn - 0.06) / 0.62, np.float64)


def _f32(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    return values.astype(np.float32)
