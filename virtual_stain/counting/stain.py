"""One slide's stain, estimated from windows spread over it: glass, stain vectors, typical nucleus, cut-off.

The cut-off between negative and positive (`SlideStain.positive_od`) lies where the slide's own negatives end
(counting/populations.py), within `positive_floor_od` and `positive_ceiling_od` of the DAB density that the tissue
between the nuclei has. A slide without a population of negatives, or with too few nuclei, gets `positive_default_od`,
flagged.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from virtual_stain.config.counting import CountingSettings
from virtual_stain.counting.background import CAST, DARK, NO_GLASS, estimate_background
from virtual_stain.counting.between import between_nuclei, brown_outside_nuclei
from virtual_stain.counting.measure import Measured, Plane, measure, stain_plane
from virtual_stain.counting.membrane import has_brown_nuclei, measure_membranes, solid_brown_um2
from virtual_stain.counting.optical_density import F32, Vector, optical_density
from virtual_stain.counting.populations import Populations, fit_populations, sparsest
from virtual_stain.counting.quality import BROWN_NUCLEI, QUALITY_SENTENCES
from virtual_stain.counting.resample import AreaResampler
from virtual_stain.counting.sampling import sample_glass, sample_windows
from virtual_stain.counting.slide_stain import SlideStain
from virtual_stain.counting.vectors import (
    DAB_PUBLISHED,
    GREY,
    HEMATOXYLIN_FAINT,
    HEMATOXYLIN_PUBLISHED,
    NOT_SEPARABLE,
    OTHER_STAIN,
    SECOND_COLOUR,
    TWO_COLOURS_DEG,
    estimate_vectors,
    hue_spread_deg,
)
from virtual_stain.slides.slide import Slide
from virtual_stain.slides.tissue import TissueMap

FEW_NUCLEI = "too_few_negative_nuclei_for_an_estimate"
FEW_POSITIVES = "too_few_positive_nuclei_for_an_estimate"
NO_NEGATIVES = "no_negative_population"
UNSTABLE_CUTOFF = "cut_off_not_stable"
PALE = "counterstain_very_pale"
BROWN = "brown_tissue"
BROWN_OUTSIDE = "brown_outside_nuclei"
TOO_LARGE = "nuclei_larger_than_outlines"
FLAG_SENTENCES = {
    NO_GLASS: "no empty glass was found; the brightest tissue stands in for it, so densities may be too low",
    DARK: "the background is darker than a brightfield slide's",
    CAST: "the background is strongly tinted",
    HEMATOXYLIN_FAINT: "the counterstain is very faint; its vector is estimated from the faintest pixels",
    HEMATOXYLIN_PUBLISHED: "too little blue to estimate the hematoxylin vector; the published one is used",
    DAB_PUBLISHED: "too little brown to estimate the DAB vector; the published one is used",
    NOT_SEPARABLE: "the two stains cannot be told apart by colour; published vectors are used: trust no class",
    SECOND_COLOUR: "nuclei have two colours, and neither is brown: is this DAB? Its positives may be missed",
    OTHER_STAIN: "the second stain is pink, red or yellow, not brown: is this DAB? Do not trust the classes",
    GREY: "nothing is blue, and nothing is clearly brown: positive cannot be told from negative",
    FEW_NUCLEI: "too few negative nuclei to say what a typical one is; a default is used",
    PALE: "negative nuclei are hardly darker than what is around them: some are missed, and haze is taken for some",
    TOO_LARGE: "many nuclei reach beyond the largest outline and come apart: is the pixel size right (--mpp)?",
    BROWN: "the tissue between the nuclei is brown: positive is only what is darker, and faint positives are lost",
    BROWN_OUTSIDE: "much of the brown lies outside nuclei: cytoplasm, pigment or background may make nuclei positive",
    FEW_POSITIVES: "hardly a positive nucleus: the cut-off of positive rests on what other slides are like",
    UNSTABLE_CUTOFF: "a few nuclei more or less move the cut-off of positive, and with it the ratio: see its range",
    NO_NEGATIVES: "no population of negative nuclei was found: the default cut-off of positive is used",
    BROWN_NUCLEI: QUALITY_SENTENCES[BROWN_NUCLEI],
}
"""What each flag of a SlideStain means, for people."""

_MIN_NEGATIVES = 15
_MIN_POSITIVES = 8
_REACH_SHARE = 0.9  # of `max_radius_um`, from which a nucleus fills what an outline may be …
# … and how much of the nuclear area may, times the typical nucleus' area, µm²: large tumour nuclei reach it on slides
# whose typical nucleus is no larger than others'. Right pixel sizes: 0 to 9.5; twice too large: 14 to 81, one of 11: 8
_MOST_AT_REACH_UM2 = 13.0
_TYPICAL_RANGE = (0.04, 1.2)
_PALE_BELOW = 0.06  # nuclei whose typical contrast is less are told from dirt on the glass by their shape alone
_DEFAULT_TYPICAL = 0.25
_DEFAULT_AREA_UM2 = 50.0
_PIXELS_PER_IMAGE = 250_000
_NOISE_SDS = 4.0  # of the negatives in focus, that the cut-off is above their level at least
_NEGATIVE_PEAK_OD = 0.15  # beyond the tissue's own DAB; the peak of the negatives never lies higher
_PALER_THAN_TISSUE_OD = 0.06  # … nor lower by more: a few clean nuclei of a brown tissue are not its negatives
_CLEARLY_NEGATIVE_OD = 0.10  # DAB density, above the tissue's own, below which a nucleus tells what a negative one is
_BROWN_FROM = 0.05  # beyond that it is told
# of the brown pixels, that lie beyond 1.5 µm from a nucleus. Real slides of nuclear markers have 0.003 to 0.067, four
# kidneys with brown tubules or a red dye 0.078 to 0.136
_MOST_BROWN_OUTSIDE = 0.072
_LOOSE_CONTRAST = 0.015
_PARTS = 8  # of the nuclei; each is left out once, to see whether the cut-off stands
_MOST_MOVED = 0.015  # of the nuclei, that may change their class by that


def estimate_stain(
    images: Sequence[npt.NDArray[np.uint8]],
    settings: CountingSettings,
    mpp: float = 0.3,
    background: Vector | None = None,
    *,
    membrane: bool = False,
) -> SlideStain:
    """`images`: uint8[H, W, 3] of one slide, all of `mpp` µm/px. `background`: colour of its glass where known.

    `membrane`: DAB is on membranes; nuclei show hematoxylin alone, and there is no nuclear threshold to estimate.
    """
    return examine_stain(images, settings, mpp, background, membrane=membrane).stain


@dataclass(frozen=True, slots=True, eq=False)
class StainEvidence:
    """A stain and what it was estimated from, for a picture of it."""

    stain: SlideStain
    density: F32
    """float32[N, 3]: optical density of a sample of pixels."""
    dab_od: F32
    """float32[M]: mean nuclear DAB of the nuclei in the sampled windows; empty for membrane markers."""
    populations: Populations | None
    """The negatives and positives among them; None where they cannot be told apart."""
    brown_nuclei: bool = False
    """Of a membrane marker: DAB fills nuclei, so that it may be another marker's slide."""


def examine_stain(
    images: Sequence[npt.NDArray[np.uint8]],
    settings: CountingSettings,
    mpp: float = 0.3,
    background: Vector | None = None,
    *,
    membrane: bool = False,
) -> StainEvidence:
    """`estimate_stain` with the evidence."""
    if not images:
        raise ValueError("Expected at least one image. Received: none")
    flags: tuple[str, ...] = ()
    if background is None:
        background, flags = estimate_background(images)
    shrink = AreaResampler.towards((mpp, mpp), settings.work_mpp)
    pixels = [optical_density(shrink(image), background).reshape(-1, 3) for image in images]
    density = np.concatenate([p[:: max(1, len(p) // _PIXELS_PER_IMAGE)] for p in pixels])
    vectors = estimate_vectors(density)
    stain = SlideStain(
        background=background,
        hematoxylin=vectors.hematoxylin,
        dab=vectors.dab,
        typical_od=_DEFAULT_TYPICAL,
        positive_od=settings.positive_default_od,
    )
    loose = dataclasses.replace(settings, min_edge_score=0.1, level_contrast=0.0)
    planes = [stain_plane(image, (mpp, mpp), stain, settings, membrane=membrane) for image in images]
    negative_below = np.inf if membrane else _CLEARLY_NEGATIVE_OD
    typical = _typical_contrast([measure(plane, stain, loose) for plane in planes], negative_below)
    stain = dataclasses.replace(stain, typical_od=typical or _DEFAULT_TYPICAL)
    between = between_nuclei(planes, [measure(plane, stain, settings) for plane in planes])
    # once more, beyond what lies between the nuclei; the compression of the signal depends on the typical one, too
    brown = 0.0 if membrane else between.brown_od
    stain = dataclasses.replace(stain, haze_od=between.haze_od)
    planes = [stain_plane(image, (mpp, mpp), stain, settings, membrane=membrane) for image in images]
    typical = _typical_contrast([measure(plane, stain, loose) for plane in planes], negative_below + brown)
    stain = dataclasses.replace(stain, typical_od=typical or _DEFAULT_TYPICAL, flags=vectors.flags)
    nuclei = [measure(plane, stain, settings) for plane in planes]
    dab = np.concatenate([n.dab_od[~n.other] for n in nuclei])
    if membrane:
        dab = dab[:0]
    cutoff = _default_cutoff(0.0, settings) if membrane else find_cutoff(dab, brown, settings)
    seen = _what_nuclei_show(planes, nuclei, stain, settings, None if membrane else brown)
    if typical is None:
        seen = (*seen, FEW_NUCLEI)
    elif typical < _PALE_BELOW:
        seen = (*seen, PALE)
    stain = dataclasses.replace(
        stain,
        typical_area_um2=_typical_area(np.concatenate([n.area_um2 for n in nuclei])),
        positive_od=cutoff.positive_od,
        doubtful_od=cutoff.doubtful_od,
        flags=(*flags, *vectors.flags, *seen, *(() if membrane else cutoff.flags)),
    )
    return StainEvidence(
        stain, density, dab, cutoff.populations, membrane and _shows_nuclei(planes, nuclei, stain, settings)
    )


def _shows_nuclei(planes: list[Plane], nuclei: list[Measured], stain: SlideStain, settings: CountingSettings) -> bool:
    """Whether DAB that should lie on membranes fills nuclei."""
    solid_um2 = math.fsum(solid_brown_um2(plane, stain.positive_od) for plane in planes)
    stained = sum(
        int(np.count_nonzero(measure_membranes(plane, n, settings).intensity))
        for plane, n in zip(planes, nuclei, strict=True)
    )
    return has_brown_nuclei(solid_um2, sum(map(len, nuclei)), stained)


def estimate_slide_stain(
    slide: Slide, tissue: TissueMap, settings: CountingSettings, *, membrane: bool = False
) -> SlideStain:
    """The stain of a whole slide: glass from outside its tissue, the rest from windows spread over the tissue.

    Deterministic: the same slide gives the same stain. Raises ResolutionError without a usable pixel size,
    NoTissueError without tissue.
    """
    return examine_slide_stain(slide, tissue, settings, membrane=membrane).stain


def examine_slide_stain(
    slide: Slide, tissue: TissueMap, settings: CountingSettings, *, membrane: bool = False
) -> StainEvidence:
    """`estimate_slide_stain` with the evidence."""
    windows, mpp = sample_windows(slide, tissue, settings)
    return examine_stain(windows, settings, mpp, sample_glass(slide, tissue), membrane=membrane)


def _what_nuclei_show(
    planes: list[Plane], found: list[Measured], stain: SlideStain, settings: CountingSettings, brown_od: float | None
) -> tuple[str, ...]:
    """Flags. `brown_od`: DAB of the tissue between nuclei; None where the marker is not nuclear."""
    raised = {
        TOO_LARGE: _area_at_reach(found, planes[0].mean_mpp, settings) > _MOST_AT_REACH_UM2,
        BROWN: brown_od is not None and brown_od > _BROWN_FROM,
        BROWN_OUTSIDE: brown_od is not None and brown_outside_nuclei(planes, found) > _MOST_BROWN_OUTSIDE,
        SECOND_COLOUR: DAB_PUBLISHED in stain.flags and _nuclear_hues_deg(planes, found, stain) > TWO_COLOURS_DEG,
    }
    return tuple(name for name, is_set in raised.items() if is_set)


def _nuclear_hues_deg(planes: list[Plane], found: list[Measured], stain: SlideStain) -> float:
    """How much the pixels of nuclei differ in colour."""
    normal = np.cross(stain.hematoxylin, stain.dab)
    axes = np.stack([stain.hematoxylin, stain.dab, normal / np.linalg.norm(normal)]).astype(np.float32)
    parts = []
    for plane, nuclei in zip(planes, found, strict=True):
        inside = nuclei.nuclei.labels > 0
        parts.append(np.stack([plane.hematoxylin[inside], plane.dab[inside], plane.residual[inside]], axis=1) @ axes)
    return hue_spread_deg(np.concatenate(parts))


def _typical_contrast(found: list[Measured], negative_below: float) -> float | None:
    """Weighted median contrast of the nuclei with less DAB than `negative_below`, weight = area · contrast, so that the
    many faint specks of cytoplasm that a loose search also finds do not count; None when there are too few."""
    contrast = np.concatenate([n.contrast_od for n in found]).astype(np.float64)
    area = np.concatenate([n.area_um2 for n in found]).astype(np.float64)
    dab = np.concatenate([n.dab_od for n in found])
    other = np.concatenate([n.other for n in found])
    negative = (dab < negative_below) & ~other & (contrast > _LOOSE_CONTRAST)
    if np.count_nonzero(negative) < _MIN_NEGATIVES:
        return None
    contrast, area = contrast[negative], area[negative]
    order = np.argsort(contrast)
    mass = np.cumsum((contrast * area)[order])
    median = contrast[order][np.searchsorted(mass, mass[-1] / 2)]
    return float(np.clip(median, *_TYPICAL_RANGE))


def _area_at_reach(found: list[Measured], mpp: float, settings: CountingSettings) -> float:
    """µm²: the typical nucleus' area, times the share of the nuclear area that belongs to nuclei as large as outlines
    can be. `mpp`: of the working pixels."""
    limit = _REACH_SHARE * settings.max_radius_um / mpp
    area = np.concatenate([n.area_um2 for n in found]).astype(np.float64)
    if len(area) < _MIN_NEGATIVES:
        return 0.0
    at_reach = [
        np.linalg.norm(ring - middle, axis=1).max() >= limit
        for n in found
        for ring, middle in zip(n.nuclei.polygon, n.nuclei.centroid, strict=True)
    ]
    return float(area[at_reach].sum() / area.sum()) * _typical_area(area)


def _typical_area(area_um2: F32 | npt.NDArray[np.float64]) -> float:
    """Median of the area that nuclei cover, not of the nuclei: lymphocytes and fragments are many but small."""
    if len(area_um2) < _MIN_NEGATIVES:
        return _DEFAULT_AREA_UM2
    area = np.sort(area_um2.astype(np.float64))
    covered = np.cumsum(area)
    return float(area[np.searchsorted(covered, covered[-1] / 2)])


@dataclass(frozen=True, slots=True)
class Cutoff:
    """Where positive begins on one slide; mean nuclear DAB optical densities."""

    positive_od: float
    doubtful_od: tuple[float, float]
    """From where to where a nucleus may be either; holds `positive_od`."""
    populations: Populations | None
    flags: tuple[str, ...]


def find_cutoff(dab_od: npt.NDArray[np.float32], brown_od: float, settings: CountingSettings) -> Cutoff:
    """From the nuclei of the sampled windows; `brown_od`: DAB of the tissue between them, beyond what is usual."""
    palest = brown_od - _PALER_THAN_TISSUE_OD if brown_od > _BROWN_FROM else -np.inf
    whole = cutoff_of(dab_od, palest, brown_od, settings)
    if whole is None:
        return _default_cutoff(brown_od, settings)
    part = np.arange(len(dab_od)) % _PARTS
    others = [cutoff_of(dab_od[part != left_out], palest, brown_od, settings) for left_out in range(_PARTS)]
    cuts = [whole.positive_od, *(other.positive_od for other in others if other is not None)]
    moved = float(np.mean((dab_od >= min(cuts)) & (dab_od < max(cuts))))
    low, high = whole.doubtful_od
    raised = {
        FEW_POSITIVES: whole.populations is not None and whole.populations.positives < _MIN_POSITIVES,
        UNSTABLE_CUTOFF: moved > _MOST_MOVED,
    }
    zone = min(low, *cuts), max(high, *cuts)
    return Cutoff(whole.positive_od, zone, whole.populations, tuple(name for name, is_set in raised.items() if is_set))


def cutoff_of(
    dab_od: npt.NDArray[np.float32], palest: float, brown_od: float, settings: CountingSettings
) -> Cutoff | None:
    """From one sample of nuclei; None without a population of negatives. `palest`: where it may begin."""
    fit = fit_populations(dab_od, (palest, brown_od + _NEGATIVE_PEAK_OD))
    if fit is None:
        return None
    floor, ceiling = brown_od + settings.positive_floor_od, brown_od + settings.positive_ceiling_od
    reach = max(ceiling - fit.negative_od, fit.width_od)
    noise = fit.negative_od + _NOISE_SDS * fit.width_od
    low, high = fit.doubtful(reach)
    least = max(low, noise, floor)
    cut = float(np.clip(sparsest(fit, dab_od, least, high), least, max(least, ceiling)))
    return Cutoff(cut, (min(low, cut), max(high, cut)), fit, ())


def _default_cutoff(brown_od: float, settings: CountingSettings) -> Cutoff:
    """Everything between the floor and 2+ is doubtful then."""
    cut = brown_od + settings.positive_default_od
    zone = brown_od + settings.positive_floor_od, brown_od + settings.positive_ceiling_od
    return Cutoff(cut, zone, None, (NO_NEGATIVES,))
