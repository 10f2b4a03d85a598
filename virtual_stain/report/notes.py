"""What a reader of a report must be told: codes for machines, sentences for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from virtual_stain.appearance import Deviation
from virtual_stain.config import ScoringSettings
from virtual_stain.her2 import NEEDS_ISH, Her2Reading
from virtual_stain.intervals import SlideInterval
from virtual_stain.markers import Marker, ValueDefinition
from virtual_stain.readings import SlideReading
from virtual_stain.report.headline import NO_INTERVAL
from virtual_stain.scoring.score import SlideScore
from virtual_stain.scoring.suitable import StainDoubt
from virtual_stain.value_text import ValueText

# beyond this the tile is blown up from fewer pixels than the network was trained on
_COARSE = 1.25

_CODES = {"pixel size": "pixel_size", "pixels": "pixels", "pages": "pages"}  # by how a slide's warnings begin

RESEARCH_USE = "Research use only: a prediction from H&E, not an immunohistochemical result."


@dataclass(frozen=True, slots=True)
class Note:
    """One warning of a report."""

    code: str
    message: str


def slide_notes(
    score: SlideScore, settings: ScoringSettings, seen: bool | None, slide_warnings: tuple[str, ...]
) -> tuple[Note, ...]:
    """Warnings about the slide as a whole; their codes are flags of every reading.

    `seen`: whether the model was trained on this slide, None where that cannot be known.
    """
    notes = [Note(_CODES.get(text.partition(":")[0], "levels"), text) for text in slide_warnings]
    if seen:
        notes.append(
            Note("slide_seen_in_training", "The model was trained on this very slide: its readings are no evidence.")
        )
    tissue_mm2 = score.tissue_um2 / 1e6
    if tissue_mm2 < settings.low_tissue_mm2:
        text = f"Only {tissue_mm2:.2f} mm² of tissue (flagged below {settings.low_tissue_mm2:g} mm²)."
        notes.append(Note("low_tissue", text))
    notes += [Note("tissue_mask", text) for text in score.tissue.warnings]
    tile_mpp = score.card.tiling.tile_mpp
    if max(score.mpp.x, score.mpp.y) > _COARSE * tile_mpp:
        text = (
            f"The slide has {score.mpp}, the model works at {tile_mpp:g} µm/px: tiles are interpolated and hold less "
            "detail than those it was trained on."
        )
        notes.append(Note("coarse_pixels", text))
    tiling = score.card.tiling
    if tiling.step_um < tiling.window_um:
        text = (
            f"The model's windows overlap ({tiling.window_um:g} µm every {tiling.step_um:g} µm): neighbouring tiles "
            "share tissue, and the mean of the top tiles may count one hot spot several times."
        )
        notes.append(Note("overlapping_windows", text))
    if score.failed:
        first = next(iter(score.failed.values()))
        text = f"{len(score.failed)} of {len(score.tiles)} tiles could not be read and are missing. The first: {first}"
        notes.append(Note("failed_tiles", text))
    return tuple(notes)


def appearance_notes(outside: tuple[Deviation, ...]) -> tuple[Note, ...]:
    """What of the slide lies outside the training range; the codes are flags of every reading."""
    by_code: dict[str, list[str]] = {}
    for deviation in outside:
        by_code.setdefault(deviation.code, []).append(str(deviation))
    return tuple(
        Note(code, f"The slide differs from those the model was trained on: {'; '.join(texts)}.")
        for code, texts in by_code.items()
    )


def stain_notes(doubt: StainDoubt | None) -> tuple[Note, ...]:
    """Says that the slide was scored although it is not stained as the model's slides are, or may not be."""
    if doubt is None:
        return ()
    if doubt.code == "not_he":
        return (Note(doubt.code, f"Scored all the same, because it was asked for: {doubt.reason}."),)
    text = f"Perhaps no H&E slide, which the model reads. It shows {doubt.reason}. Is it IHC (vstain count)?"
    return (Note(doubt.code, text),)


def unknown_range_note(training_range: Mapping[str, Any] | None) -> tuple[Note, ...]:
    """Says that a slide of another scanner, stain or focus would not be noticed."""
    if training_range:
        return ()
    text = (
        "The model does not say how its training slides looked: whether this slide looks like them was not checked. "
        "Models exported from runs of today say it."
    )
    return (Note("training_range_unknown", text),)


def engine_notes(
    engine: Mapping[str, Any], settings: ScoringSettings, definition: ValueDefinition = ValueDefinition.POSITIVE_RATIO
) -> tuple[Note, ...]:
    """Where the network was not run as the reference runs it."""
    notes = []
    if settings.crops == "center":
        text = "Of every tile only the central crop was read: readings are noisier than those of whole tiles."
        notes.append(Note("center_crops", text))
    difference = engine.get("largest_difference")
    # an engine that passed its check keeps its name; the reference reads only where the fast one was refused
    if difference is not None and (engine.get("name"), engine.get("precision")) == ("tensorflow", "float32"):
        text = (
            f"The faster engine differed by {difference_text(difference, definition)} on the centres of "
            f"{engine['checked_tiles']} tiles of this "
            "slide: float32 read it."
        )
        notes.append(Note("bfloat16_not_used", text))
    if engine.get("transport") == "jpeg":
        how_far = (
            "readings may differ by up to 0.01." if definition.is_ratio else "what that does to counts is not measured."
        )
        notes.append(Note("jpeg_transport", f"Tiles went to the server as JPEG: {how_far}"))
    return tuple(notes)


def difference_text(difference: float, definition: ValueDefinition) -> str:
    """The largest difference of two engines: of fractions itself, of counts a share of the value."""
    return f"{difference:.4f}" if definition.is_ratio else f"{100 * difference:.1f} % of the value"


def reading_notes(
    marker: Marker, reading: SlideReading, interval: SlideInterval, score: SlideScore
) -> tuple[Note, ...]:
    """Warnings about one marker's readings: the meaning of its flags, and why a value is null."""
    shown = ValueText(score.card.value_definition)
    label = shown.name(marker)
    notes = []
    if reading.n_tiles == 0:
        text = f"{label}: there is no reading: {_why_none(marker, score)}"
        notes.append(Note("no_valid_tiles", text))
    elif reading.global_ratio is None:
        notes.append(Note("no_expected_cells", f"{label}: there is no global ratio: no tumour cells are expected."))
    for flag in reading.flags:
        if flag == "top_mean_biased":
            text = (
                f"{label}: the mean of the highest {reading.top_n} of {reading.n_tiles} tiles is biased upward: noise "
                "helps a tile into the top, and more tiles make the top higher. Compare slides by the global readings."
            )
            notes.append(Note(flag, text))
        elif flag.endswith("_tiles") and flag.startswith("fewer_than"):
            text = f"{label}: only {reading.n_tiles} tiles carry a reading; the top mean is the mean of all of them."
            notes.append(Note(flag, text))
        elif flag.endswith("_tumour_cells"):
            text = f"{label}: about {reading.expected_tumour_cells:.0f} tumour cells are expected on the used tiles."
            notes.append(Note(flag, text))
    if not interval.available:
        notes.append(Note("no_interval", f"{label}: {NO_INTERVAL}: {interval.reason}."))
    elif interval.beyond_patients is not None and reading.global_ratio is not None:
        text = (
            f"{label}: the reading of {shown.text(reading.global_ratio)} lies outside those of the patients behind the "
            f"interval ({shown.span(*interval.beyond_patients)} {shown.unit}): the interval is extrapolated, "
            "and no evidence stands behind it."
        )
        notes.append(Note("interval_extrapolated", text))
    return tuple(notes)


def her2_notes(marker: Marker, reading: Her2Reading) -> tuple[Note, ...]:
    """What a score of predicted intensities must not be taken for."""
    if reading.score is None:
        return ()
    text = (
        f"{marker.label}: the score follows the rule for counted cells, but the shares are expectations of a network, "
        "which never are 0: rare intensities seem less rare and frequent ones less frequent, so scores lean towards 2+."
    )
    notes = [Note("her2_expected_shares", text)]
    if reading.needs_ish:
        notes.insert(0, Note("her2_equivocal", f"{marker.label} 2+: {NEEDS_ISH}. It is never a final class."))
    return tuple(notes)


def unknown_training_note(seen: bool | None) -> tuple[Note, ...]:
    """Says that nobody checked, where nobody could."""
    if seen is not None:
        return ()
    text = (
        "Whether the model was trained on this slide cannot be told here: that needs the patient key which its "
        "records were built with (VSTAIN_PATIENT_KEY)."
    )
    return (Note("training_slides_unknown", text),)


def _why_none(marker: Marker, score: SlideScore) -> str:
    card = score.card
    if not score.tiles:
        return "no window holds tissue."
    tissue = max(t.tissue_fraction for t in score.tiles)
    cells = score.markers[marker].tumour_cells
    known = cells[np.isfinite(cells)]
    highest = f"{known.max():.1f}" if len(known) else "none"
    return (
        f"no tile has both a tissue fraction of at least {card.min_tissue_fraction:g} and "
        f"{card.min_tumour_cells:g} expected tumour cells (highest: {tissue:.2f} and {highest})."
    )
