"""summary.json of a count, and its words on the picture and on the terminal."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from virtual_stain.config.counting import CountingSettings
from virtual_stain.counting.cells import CellClass, Cells
from virtual_stain.counting.doubtful import RatioRange, ratio_range
from virtual_stain.counting.given import GivenCells
from virtual_stain.counting.membrane import has_brown_nuclei
from virtual_stain.counting.quality import BROWN_NUCLEI, QUALITY_SENTENCES, Quality, join_quality
from virtual_stain.counting.readings import (
    ALLRED_BINS,
    ALLRED_INTENSITY,
    NO_CELLS,
    Readings,
    read_cells,
    read_tps,
)
from virtual_stain.counting.region import Region
from virtual_stain.counting.slide_stain import SlideStain
from virtual_stain.counting.stain import FLAG_SENTENCES
from virtual_stain.counting.windows import FoundCells, WindowPlan
from virtual_stain.geometry import Points
from virtual_stain.her2 import read_her2
from virtual_stain.markers import CellCounts, Compartment, Marker, ValueDefinition
from virtual_stain.slides.slide import Slide
from virtual_stain.slides.tissue import TissueMap
from virtual_stain.workflows.count_page import PAGE_NAME
from virtual_stain.workflows.count_words import describe_source, headline_of

_AREA_STEP_UM = 8.0
_PALE_SHARE = (
    0.5  # of the typical nucleus' stain. On eight real pictures at most 0.02 of the nuclei found there and 0.13
)
_PALE_FRACTION = 0.2  # of those in masks (registered from another stain) were paler; of random places 0.11 to 0.81
_TWICE_UM = 1.0  # two detections nearer than this are one nucleus counted twice


@dataclass(frozen=True, slots=True)
class CountFacts:
    """How a slide was counted."""

    marker: Marker
    tumour_source: str
    detector: str
    given: GivenCells | None
    plan: WindowPlan
    stain: SlideStain
    whole_image: bool
    """No tissue mask: everything was searched."""
    area_mm2: float
    """What counts per mm² are counts of: `area_of`."""
    area_of: str
    """"region of interest", "tissue" or "whole image", glass included."""
    pale: int = 0
    """How many of the cells show hardly any stain (`count_pale`)."""
    tissue_warnings: tuple[str, ...] = ()


def summarize(
    slide: Slide,
    facts: CountFacts,
    cells: Cells,
    intensity: npt.NDArray[np.uint8],
    quality: Sequence[Quality],
    settings: CountingSettings,
) -> dict[str, Any]:
    """What stands in summary.json. `intensity`: uint8[N] of `cells`; `quality`: one per window."""
    stain, mpp, membrane = facts.stain, slide.mpp, facts.marker.compartment is Compartment.MEMBRANE
    assert mpp is not None
    tumour = read_cells(cells, settings, tumour_only=True, intensity=intensity)
    nuclei = read_cells(cells, settings, tumour_only=False, intensity=intensity)
    least = settings.min_membrane_cells if membrane else settings.min_slide_cells
    # a class that another program told does not follow from the slide's cut-off
    told = membrane or facts.given is not None
    ranges = [None if told else ratio_range(cells, stain, tumour_only=t) for t in (True, False)]
    doubtful = 0.0 if ranges[0] is None else ranges[0].half_width
    trust = join_quality(quality, cells.counts(), least, settings, stain, doubtful)
    if facts.given is None and has_brown_nuclei(trust.total.solid_brown_um2, len(cells), nuclei.positive):
        trust = dataclasses.replace(trust, flags=(BROWN_NUCLEI, *trust.flags))
    area_mm2 = facts.area_mm2
    summary = {
        "schema_version": 2,
        "slide": {"name": slide.name, "format": slide.format, "mpp": [mpp.x, mpp.y], "mpp_origin": mpp.origin},
        "marker": facts.marker.value,
        "compartment": facts.marker.compartment.value,
        "detector": facts.detector,
        "value_definition": settings.value_definition.value,
        "value": value_of(cells.counts(), settings.value_definition, area_mm2),
        "tumour_source": facts.tumour_source,
        "tumour": _reading(tumour, ranges[0], membrane=membrane),
        "all_nuclei": _reading(nuclei, ranges[1], membrane=membrane),
        **_of_marker(facts.marker, cells, intensity),
        "other_objects": int(np.count_nonzero(cells.cell_class == CellClass.OTHER)),
        **_cutoffs(stain, settings, membrane=membrane),
        "searched": "whole image" if facts.whole_image else "windows with tissue",
        "area_mm2": round(area_mm2, 6),
        "area_of": facts.area_of,
        "windows": len(facts.plan.windows),
        "trust": trust.to_dict(),
        "stain": stain.to_dict(),
    }
    warnings = [*slide.warnings, *(f"stain: {FLAG_SENTENCES.get(flag, flag)}" for flag in stain.flags)]
    warnings += facts.tissue_warnings
    warnings += [f"trust: {QUALITY_SENTENCES[flag]}" for flag in trust.flags]
    warnings += _of_given(facts.given, (mpp.x, mpp.y), facts.pale)
    if tumour.ratio is None:
        warnings.append("no reading of tumour cells: none were counted")
    if nuclei.ratio is None:
        warnings.append("no reading of all nuclei: none were counted")
    return {**summary, "warnings": warnings}


def value_of(counts: CellCounts, definition: ValueDefinition, area_mm2: float) -> dict[str, Any]:
    """The number that would become the label, by the configured definition; null without cells or area."""
    ratio = counts.ratio
    number: float | None
    match definition:
        case ValueDefinition.POSITIVE_RATIO:
            number = ratio
        case ValueDefinition.NEGATIVE_RATIO:
            number = None if ratio is None else 1 - ratio
        case ValueDefinition.POSITIVE_COUNT:
            number = counts.positive / area_mm2 if area_mm2 > 0 else None
        case ValueDefinition.NEGATIVE_COUNT:
            number = counts.negative / area_mm2 if area_mm2 > 0 else None
    return {"value": None if number is None else round(number, 6), "unit": definition.unit}


def read_area_mm2(
    plan: WindowPlan, mpp: tuple[float, float], ground: TissueMap, region: Region | None, *, whole_image: bool
) -> tuple[float, str]:
    """Area of the region inside the scan; without one of the tissue, or of a whole small image; and which it is.

    What no camera took belongs to none of them.
    Points 8 µm apart are asked: within 1 % for areas of 0.1 mm² or more.
    """
    sx, sy = plan.scale
    step = _AREA_STEP_UM / mpp[0], _AREA_STEP_UM / mpp[1]
    inside = 0
    for w in plan.windows:
        # multiples of the step, so that neighbouring windows share no point and leave none out
        xs, ys = (
            np.arange(math.ceil(low * s / d - 0.5), math.ceil(high * s / d - 0.5)) * d + d / 2
            for low, high, s, d in ((w.core_x, w.core_x1, sx, step[0]), (w.core_y, w.core_y1, sy, step[1]))
        )
        points = np.stack(np.meshgrid(xs, ys), axis=-1).reshape(-1, 2)
        known = ~ground.unknown_at(points)
        if region is not None:
            known &= region.contains(points)
        elif not whole_image:
            known &= _on_tissue(ground, points)
        inside += int(np.count_nonzero(known))
    name = "region of interest" if region is not None else "whole image" if whole_image else "tissue"
    return inside * _AREA_STEP_UM**2 / 1e6, name


def _on_tissue(tissue: TissueMap, points: Points) -> npt.NDArray[np.bool_]:
    column, row = np.floor(tissue.px0_from_ov.inverse().apply(points)).astype(np.intp).T
    height, width = tissue.mask.shape
    return np.asarray(tissue.mask[np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)], np.bool_)


def _reading(readings: Readings, doubtful: RatioRange | None, *, membrane: bool) -> dict[str, Any]:
    value = readings.to_dict() | ({} if doubtful is None else doubtful.to_dict())
    # Allred is a score of nuclear stains
    return {k: v for k, v in value.items() if not (membrane and k.startswith("allred"))}


def _of_marker(marker: Marker, cells: Cells, intensity: npt.NDArray[np.uint8]) -> dict[str, Any]:
    if marker is Marker.HER2:
        return {"her2": read_her2(intensity[cells.tumour]).to_dict(NO_CELLS)}
    return {"pdl1": read_tps(cells)} if marker is Marker.PDL1 else {}


def _cutoffs(stain: SlideStain, settings: CountingSettings, *, membrane: bool) -> dict[str, Any]:
    if membrane:
        return {
            "membrane_cutoffs": {
                "stained_od": settings.membrane_faint_od,
                "intense_od": settings.membrane_strong_od,
                "some_fraction": settings.membrane_some_fraction,
                "complete_fraction": settings.membrane_complete_fraction,
            }
        }
    return {
        "doubtful_dab_od": [round(v, 6) for v in stain.doubtful_od],
        "intensity_cutoffs_dab_od": [round(stain.positive_od, 6), settings.intensity_2_od, settings.intensity_3_od],
        "allred_proportion_bins": ALLRED_BINS,
        "allred_intensity_rule": ALLRED_INTENSITY,
    }


def count_pale(found: FoundCells, stain: SlideStain) -> int:
    """How many cells have less than half of the stain, both together, of the slide's typical negative nucleus."""
    hematoxylin = found.columns.get("hematoxylin_od")
    if hematoxylin is None:
        return 0
    total = np.nan_to_num(hematoxylin) + np.nan_to_num(found.cells.dab_od)
    limit = _PALE_SHARE * stain.typical_od / sum(stain.hematoxylin)  # typical_od is summed over the channels
    return int(np.count_nonzero(total < limit))


def _of_given(given: GivenCells | None, mpp: tuple[float, float], pale: int) -> list[str]:
    if given is None or len(given) == 0:
        return []
    told = list(given.notes)
    if pale > _PALE_FRACTION * len(given):
        told.append(
            f"cells: {pale} of {len(given)} have less than half the stain of a nucleus of this slide: do they lie on "
            "glass or beside the nuclei, in µm instead of px, from another corner, or of another slide? "
            "Look at overlay_full.jpg"
        )
    if given.strange:
        strange = ", ".join(f"{name!r}: {n}" for name, n in given.strange.items())
        told.append(f"cells: class names that are not known, taken as tumour unless others are named so: {strange}")
    twice = len(cKDTree(given.xy * mpp).query_pairs(_TWICE_UM, output_type="ndarray"))
    return [*told, f"cells: {twice} pairs lie within {_TWICE_UM:g} µm: counted twice?"] if twice else told


def describe(summary: dict[str, Any], out: Path) -> str:
    """What the command prints."""
    lines = [headline_of(summary), f"{describe_source(summary)}."]
    lines += [f"warning: {text}" for text in summary["warnings"]]
    return "\n".join([*lines, f"page: {out / PAGE_NAME}", f"overlay: {out / 'overlay.jpg'}"])
