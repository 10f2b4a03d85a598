"""A scored slide as numbers on disk: report.json, and tiles.csv with every tissue tile."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from virtual_stain.appearance import Deviation, outside_training, slide_appearance
from virtual_stain.config import ScoringSettings
from virtual_stain.geometry import Box, Size
from virtual_stain.her2 import Her2Reading, her2_fractions
from virtual_stain.intervals import LEVEL, SlideInterval, slide_interval
from virtual_stain.markers import Marker
from virtual_stain.provenance import software_versions
from virtual_stain.readings import SlideReading, aggregate
from virtual_stain.report.evidence import evidence_of
from virtual_stain.report.notes import (
    RESEARCH_USE,
    Note,
    appearance_notes,
    engine_notes,
    her2_notes,
    reading_notes,
    slide_notes,
    stain_notes,
    unknown_range_note,
    unknown_training_note,
)
from virtual_stain.scoring.score import SlideScore
from virtual_stain.scoring.suitable import StainDoubt
from virtual_stain.slides.slide import Slide
from virtual_stain.value_text import ValueText

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class SlideFacts:
    """What a report says about the file."""

    name: str
    path: Path
    content_sha256: str
    format: str
    size: Size
    bounds: Box
    """The scanned part, level-0 px."""
    warnings: tuple[str, ...]
    """What is odd about the file: its pixel size, pages, levels, missing pixels."""
    stain_doubt: StainDoubt | None = None
    """Why the slide's stain may not be the model's."""

    @staticmethod
    def of(slide: Slide, content_sha256: str) -> SlideFacts:
        return SlideFacts(
            slide.name, slide.path, content_sha256, slide.format, slide.size, slide.bounds, tuple(slide.warnings)
        )


@dataclass(frozen=True, eq=False)
class SlideReport:
    """A slide's scores, its readings and everything that a reader must be told; values in the card's unit."""

    slide: SlideFacts
    score: SlideScore
    readings: dict[Marker, SlideReading]
    notes: tuple[Note, ...]
    slide_flags: tuple[str, ...]
    model_sha256: str
    settings: ScoringSettings
    intervals: dict[Marker, SlideInterval]
    """Of `global_ratio`."""
    her2: dict[Marker, Her2Reading]
    """Of the markers that have intensities: shares and score over the used tiles."""
    virtual: Mapping[str, Any] | None = None
    """The readings of the virtual slide, as they stand in report.json; None: none was drawn."""

    @property
    def shown(self) -> ValueText:
        """How its values are written."""
        return ValueText(self.score.card.value_definition)

    def flags(self, marker: Marker) -> tuple[str, ...]:
        """The reading's own flags and the slide's."""
        return self.readings[marker].flags + self.slide_flags


def make_report(
    slide: SlideFacts, score: SlideScore, model_sha256: str, settings: ScoringSettings, *, seen: bool | None
) -> SlideReport:
    """Aggregates the used tiles of every marker. `seen`: was the model trained on the slide, None: unknown."""
    readings, intervals, her2 = {}, {}, {}
    outside = _outside(score)
    about_slide = slide_notes(score, settings, seen, slide.warnings) + appearance_notes(outside)
    about_slide += stain_notes(slide.stain_doubt) + unknown_range_note(score.card.training_range)
    notes = list(about_slide)
    # where windows overlap, every cell is expected in several tiles
    once = min(1.0, score.card.tiling.step_um / score.card.tiling.window_um) ** 2
    for marker, scores in score.markers.items():
        used = scores.used
        cells = scores.tumour_cells[used] * once
        readings[marker] = aggregate(
            scores.value[used],
            cells,
            top_n=settings.top_n,
            few_cells=settings.few_cells,
            definition=score.card.value_definition,
            tissue_fraction=np.array([t.tissue_fraction for t in score.tiles])[used],
        )
        intervals[marker] = _interval(score, marker, readings[marker], settings, outside)
        notes += reading_notes(marker, readings[marker], intervals[marker], score)
        if scores.intensities is not None:
            her2[marker] = Her2Reading.of(her2_fractions(scores.intensities[used], cells))
            notes += her2_notes(marker, her2[marker])
    notes += engine_notes(score.engine, settings, score.card.value_definition) + unknown_training_note(seen)
    flags = tuple(dict.fromkeys(note.code for note in about_slide))
    return SlideReport(slide, score, readings, tuple(notes), flags, model_sha256, settings, intervals, her2)


def _outside(score: SlideScore) -> tuple[Deviation, ...]:
    """In what the used tiles look otherwise than those of the training slides."""
    used = [i for i, _ in enumerate(score.tiles) if any(s.used[i] for s in score.markers.values())]
    return outside_training(score.card.training_range, slide_appearance(score.looks.get(i) for i in used))


def _interval(
    score: SlideScore, marker: Marker, reading: SlideReading, settings: ScoringSettings, outside: tuple[Deviation, ...]
) -> SlideInterval:
    """The model's interval for this reading, or why it has none."""
    if not score.card.value_definition.is_ratio:
        return SlideInterval(None, None, None, LEVEL, "intervals are made for ratios, and the value is a count")
    found = slide_interval(score.card.intervals.get(marker.value), reading.global_ratio)
    if found.available and outside:
        return SlideInterval(None, None, None, LEVEL, "the slide lies outside what the model was trained on")
    if found.available and settings.crops != "quadrants":
        return SlideInterval(
            None, None, None, LEVEL, "the model's residuals are those of whole tiles, not of their centre"
        )
    return found


def report_json(report: SlideReport, made_from: dict[str, Any], outputs: dict[str, Any]) -> dict[str, Any]:
    """The value of `<stem>.report.json`; a value that does not exist is None with its reason in `warnings`.

    `made_from`: what the result depends on, to tell whether it is still current; `outputs`: the files beside it.
    """
    slide, score, card = report.slide, report.score, report.score.card
    bounds = slide.bounds
    return {
        "schema_version": SCHEMA_VERSION,
        "notice": RESEARCH_USE,
        "slide": {
            "name": slide.name,
            "path": str(slide.path),
            "content_sha256": slide.content_sha256,
            "format": slide.format,
            "width_px0": slide.size.width,
            "height_px0": slide.size.height,
            "bounds_px0": [bounds.x, bounds.y, bounds.width, bounds.height],
            "mpp_x": score.mpp.x,
            "mpp_y": score.mpp.y,
            "mpp_origin": score.mpp.origin,
            "tissue_mm2": round(score.tissue_um2 / 1e6, 6),
        },
        "model": {"name": card.name, "version": card.version, "sha256": report.model_sha256},
        "engine": score.engine | {"crops": report.settings.crops},
        "model_evidence": evidence_of(card).to_json(),
        "readings": {m.value: reading_json(report, m) for m in report.readings},
        **({} if report.virtual is None else {"virtual": dict(report.virtual)}),
        "tiles": {
            "scored": len(score.tiles) - len(score.failed),
            "glass": score.plan.n_glass,
            "failed": len(score.failed),
            "columns": score.plan.grid.columns,
            "rows": score.plan.grid.rows,
            "window_um": card.tiling.window_um,
            "stride_um": card.tiling.step_um,
            "tile_px": card.tiling.tile_px,
            "min_tissue_fraction": card.min_tissue_fraction,
            "min_tumour_cells": card.min_tumour_cells,
        },
        "warnings": [{"code": n.code, "message": n.message} for n in report.notes],
        "made_from": made_from,
        "outputs": outputs,
        "timing": {f"{name}_s": round(value, 3) for name, value in score.timing_s.items()},
        "software": software_versions(tensorflow=True),
    }


def reading_json(report: SlideReport, marker: Marker) -> dict[str, Any]:
    """One marker's entry of `readings` in report.json."""
    reading, definition = report.readings[marker], report.score.card.value_definition
    her2 = report.her2.get(marker)
    of_her2 = {} if her2 is None else {"her2": her2.to_dict("no tile carries a reading")}
    return {
        "value_definition": definition.value,
        "unit": definition.unit,
        "top_mean": reading.top_mean,
        "top_n": reading.top_n,
        "global_mean": reading.global_mean,
        "global_ratio": reading.global_ratio,
        "quantiles": reading.quantiles,
        "n_tiles": reading.n_tiles,
        "expected_tumour_cells": reading.expected_tumour_cells,
        "interval": _interval_json(report.intervals[marker]),
        "flags": list(report.flags(marker)),
    } | of_her2


def _interval_json(interval: SlideInterval) -> dict[str, Any] | None:
    if not interval.available:
        return None
    return {
        "reading": "global_ratio",
        "low": interval.low,
        "high": interval.high,
        "level": interval.level,
        "calibrated": interval.calibrated,
    }


def tiles_csv(score: SlideScore, more: Mapping[str, Sequence[str]] = MappingProxyType({})) -> str:
    """The text of `<stem>.tiles.csv`: every tissue tile, row by row; a missing value is an empty field.

    `used`: it enters the readings of some marker; with several markers `used_<marker>` follows for each, then the
    columns of `more`, a field for every tile.
    """
    columns = ["col", "row", "x", "y", "width", "height"]
    shown = ValueText(score.card.value_definition)
    columns += [name for m in score.card.markers for name in (shown.column(m), *m.outputs[1:])]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    several = list(score.markers.items()) if len(score.markers) > 1 else []
    writer.writerow([*columns, "tissue_fraction", "used", "flags", *(f"used_{m.value}" for m, _ in several), *more])
    for i, tile in enumerate(score.tiles):
        box = tile.box
        row: list[object] = [tile.col, tile.row, *(f"{v:.3f}" for v in (box.x, box.y, box.width, box.height))]
        for scores in score.markers.values():
            row += [_number(scores.value[i], 6), _number(scores.tumour_cells[i], 3)]
            row += [] if scores.intensities is None else [_number(share, 6) for share in scores.intensities[i]]
        used = any(scores.used[i] for scores in score.markers.values())
        each = [int(scores.used[i]) for _, scores in several]
        writer.writerow(
            [
                *row,
                f"{tile.tissue_fraction:.4f}",
                int(used),
                ";".join(score.flags[i]),
                *each,
                *(v[i] for v in more.values()),
            ]
        )
    return text.getvalue()


def _number(value: float, decimals: int) -> str:
    return f"{value:.{decimals}f}" if math.isfinite(value) else ""
