"""How laboratories and scanners differ on the H&E side of a phantom: section, stain, sharpness, glass.

The nuclei stay as the seed drew them: what is lost between two labs is the reader's loss alone.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from virtual_stain.phantom.noise import rng_for
from virtual_stain.phantom.stains import SlideOptics

_USUAL_SECTION_UM = 4.0

_BLUISH = (0.75, 0.63, 0.22)
_PURPLE = (0.58, 0.77, 0.26)
_ORANGE = (0.10, 0.86, 0.50)
_ROSE = (0.24, 0.93, 0.26)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeLab:
    """One way to cut, stain and scan H&E."""

    hematoxylin: tuple[float, float, float] = (0.66, 0.70, 0.27)
    """Direction in optical density, RGB; any length."""
    eosin: tuple[float, float, float] = (0.16, 0.92, 0.36)
    """Direction in optical density, RGB; any length."""
    hematoxylin_strength: float = 1.0
    eosin_strength: float = 1.0
    section_um: float = _USUAL_SECTION_UM
    """Thickness of the section: the optical density of all that is in it grows in proportion."""
    glass: tuple[float, float, float] = (243.0, 242.0, 244.0)
    """RGB of empty glass."""
    blur_um: float = 0.26
    """Gaussian sigma of the optics, µm; slides of a lab vary by a tenth."""
    noise: float = 1.2
    """Standard deviation of the camera's noise, grey levels."""
    stray_light: float = 0.0
    """Share of the glass' light that the camera sees everywhere."""
    sharpening: float = 0.0
    """How much the camera adds of what is finer than about 0.7 µm."""


HE_LAB: dict[str, HeLab] = {
    "tinted": HeLab(
        hematoxylin=_PURPLE, eosin=_ORANGE, eosin_strength=1.2, glass=(236.0, 231.0, 219.0), blur_um=0.45, noise=2.0,
        stray_light=0.03,
    ),
    "sky_blue": HeLab(
        hematoxylin=_BLUISH, hematoxylin_strength=0.8, eosin_strength=0.85, section_um=3.0, sharpening=0.6,
    ),
    "broad": HeLab(
        hematoxylin_strength=1.25, eosin_strength=1.25, section_um=5.0, glass=(234.0, 232.0, 226.0), blur_um=0.35,
    ),
    "grey_blue": HeLab(
        hematoxylin=_BLUISH, eosin=_ROSE, eosin_strength=0.7, glass=(215.0, 215.0, 218.0), blur_um=0.6, noise=2.2,
        stray_light=0.06,
    ),
    "violet": HeLab(
        hematoxylin=_PURPLE, eosin=_ROSE, hematoxylin_strength=1.15, glass=(238.0, 230.0, 236.0), blur_um=0.4,
    ),
    "clusters": HeLab(
        eosin=_ORANGE, hematoxylin_strength=0.9, section_um=3.0, glass=(236.0, 239.0, 241.0), sharpening=0.9,
    ),
    "vesicular": HeLab(
        hematoxylin=_BLUISH, eosin=_ORANGE, hematoxylin_strength=0.7, eosin_strength=1.1, section_um=3.5, blur_um=0.3,
        sharpening=0.5,
    ),
}  # fmt: skip
"""The names are those of `phantom/labs.py`: a lab has one H&E side and one IHC side."""


def he_photographed(optics: SlideOptics, seed: int, lab: str) -> SlideOptics:
    """The optics of an H&E slide as `lab` has them; the spread from slide to slide in stain and strength is kept."""
    style = HE_LAB[lab]
    rng = rng_for(seed, "he camera", lab)
    vectors = optics.vectors.copy()
    for stain, direction in enumerate((style.hematoxylin, style.eosin)):
        vector = np.clip(np.asarray(direction) / np.linalg.norm(direction) + rng.normal(0, 0.025, 3), 0.02, None)
        vectors[stain] = vector / np.linalg.norm(vector)
    thickness = style.section_um / _USUAL_SECTION_UM
    factors = np.array([style.hematoxylin_strength, style.eosin_strength, 1.0]) * thickness
    return dataclasses.replace(
        optics,
        vectors=vectors,
        strength=optics.strength * factors,
        background=np.asarray(style.glass) + rng.uniform(-2, 2, 3),
        blur_um=style.blur_um * float(rng.uniform(0.9, 1.1)),
        noise=style.noise,
        stray_light=style.stray_light,
        sharpening=style.sharpening,
    )
