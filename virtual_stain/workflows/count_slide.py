"""`vstain count`: one IHC slide → cells.csv, cells.geojson, summary.json, overlay.jpg, run.json."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from virtual_stain.config import Config
from virtual_stain.config.check import require_one_of
from virtual_stain.counting.cell_files import CellFiles
from virtual_stain.counting.cells import CellClass, Cells
from virtual_stain.counting.overlay import close_up_box, draw_overlay
from virtual_stain.counting.readings import ALLRED_BINS, ALLRED_INTENSITY, intensity_class, read_cells
from virtual_stain.counting.region import Region, read_region
from virtual_stain.counting.slide_stain import SlideStain
from virtual_stain.counting.stain import FLAG_SENTENCES, estimate_slide_stain, estimate_stain
from virtual_stain.counting.tumour import NUCLEAR_FEATURES, REGION
from virtual_stain.counting.windows import FoundCells, WindowPlan, count_windows, plan_windows, window_tasks
from virtual_stain.errors import OutputError
from virtual_stain.files import folder_lock, output_errors, read_json, replacing, sha256_file, write_bytes, write_json
from virtual_stain.geometry import Box, Points, Size
from virtual_stain.markers import Marker, require_nuclear
from virtual_stain.parallel import local_executor, map_in_order
from virtual_stain.progress import QUIET, Progress
from virtual_stain.provenance import RunRecord
from virtual_stain.slides.slide import Slide, SlideRef, open_slide
from virtual_stain.slides.tissue import TissueMap, find_tissue, require_tissue
from virtual_stain.slides.window import read_window

ORIGINS = ("bounds", "slide")
_FIELD_UM2 = 4e6  # up to 2 × 2 mm the whole image is counted: a tissue mask needs a slide around the tissue
_STAIN_MPP = 0.25  # … and its stain is estimated from all of it, at about this pixel size
_AHEAD = 4  # tasks per process that may wait to be written: bounds the memory
_OUTPUTS = ("cells.csv", "cells.geojson", "summary.json", "overlay.jpg")


@dataclass(frozen=True, slots=True)
class CountRequest:
    """What to count and where to write it."""

    slide: SlideRef
    marker: Marker
    out: Path
    roi: Path | None = None
    geojson_origin: str = "bounds"
    """Frame of `roi` and of cells.geojson: "bounds" (QuPath: px0 from the corner of the scan) or "slide"."""


@dataclass(frozen=True, slots=True)
class _Tally:
    """Everything that was counted, in memory: about 60 bytes a cell."""

    cells: Cells
    close_up: Box
    rings: list[tuple[int, Points]]
    """Outlines in the close-up."""


def count_slide(
    request: CountRequest, config: Config, *, jobs: int = 1, force: bool = False, progress: Progress = QUIET
) -> dict[str, Any]:
    """Counts one slide and returns what stands in summary.json.

    Raises ConfigError (membrane marker), ResolutionError, SlideError, NoTissueError, InputError (region of
    interest), OutputError (unwritable, or the folder holds the count of another slide or of other settings and
    `force` is not given). A run that was killed is done again from the start; nothing half-written is left as whole.
    """
    require_nuclear(request.marker)
    require_one_of("geojson_origin", request.geojson_origin, ORIGINS)
    record = RunRecord("count", config=config.to_dict())
    with open_slide(request.slide) as slide:
        plan_windows(slide, None, config.counting)  # refuses a wrong pixel size before anything slow
        region = None if request.roi is None else read_region(request.roi, slide.bounds, request.geojson_origin)
        record.inputs[str(request.slide.path)] = slide.content_hash()
        if request.roi is not None:
            record.inputs[str(request.roi)] = sha256_file(request.roi)
        identity = _identity(request, config, slide, list(record.inputs.values()))
        with folder_lock(request.out):
            _claim(request.out, identity, force=force)
            summary = _count(slide, request, config, region, record, jobs, progress)
            record.extra = {"identity": identity, "complete": True}
            record.write(request.out)
    return summary


def _identity(request: CountRequest, config: Config, slide: Slide, hashes: list[str]) -> dict[str, Any]:
    """What makes two runs the same run."""
    settings = config.to_dict()
    mpp = slide.mpp
    assert mpp is not None  # plan_windows refused the slide otherwise
    return {
        "content_sha256": hashes,
        "marker": request.marker.value,
        "mpp": [mpp.x, mpp.y],
        "geojson_origin": request.geojson_origin,
        "settings": {name: _plain(settings[name]) for name in ("counting", "tissue")},
    }


def _plain(section: dict[str, Any]) -> Any:
    """As it will be read back: enums and tuples become strings and lists."""
    return json.loads(json.dumps(section))


def _claim(out: Path, identity: dict[str, Any], *, force: bool) -> None:
    """Refuses a folder with another run's output; otherwise clears it and marks it as being written."""
    run = out / "run.json"
    present = [name for name in (*_OUTPUTS, "run.json") if (out / name).exists()]
    if present and not force:
        known = read_json(run, "the record of a count") if run.is_file() else {}
        if not isinstance(known, dict) or known.get("identity") != identity:
            raise OutputError(
                f"{out}: the folder already holds another run's output ({', '.join(present)}): another slide, "
                "region, marker, pixel size or other settings.",
                hint="Choose another --out, or replace it with --force.",
            )
    write_json(run, {"command": "count", "identity": identity, "complete": False})
    with output_errors(out):
        for name in _OUTPUTS:
            (out / name).unlink(missing_ok=True)


def _count(
    slide: Slide,
    request: CountRequest,
    config: Config,
    region: Region | None,
    record: RunRecord,
    jobs: int,
    progress: Progress,
) -> dict[str, Any]:
    settings, out = config.counting, request.out
    start = time.monotonic()
    tissue, stain = _tissue_and_stain(slide, config)
    plan = plan_windows(slide, tissue, settings)
    record.durations_s["stain"] = time.monotonic() - start
    start = time.monotonic()
    tally = _count_to_files(slide, request, config, region, (plan, stain), jobs, progress)
    record.durations_s["cells"] = time.monotonic() - start
    summary = _summary(slide, request, config, tally.cells, (plan, stain, tissue))
    title = _title(summary)
    picture = draw_overlay(slide, tally.cells, tally.rings, tally.close_up, title)
    encoded = cv2.imencode(".jpg", picture[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
    write_bytes(out / "overlay.jpg", encoded.tobytes())
    write_json(out / "summary.json", summary)
    record.counts = {
        "cells": len(tally.cells),
        "tumour_positive": summary["tumour"]["positive"],
        "tumour_negative": summary["tumour"]["negative"],
        "windows": len(plan.windows),
    }
    return summary


def _tissue_and_stain(slide: Slide, config: Config) -> tuple[TissueMap | None, SlideStain]:
    """None instead of a mask for an image so small that it is all looked at."""
    tissue = find_tissue(slide, config.tissue)
    mpp = slide.mpp
    assert mpp is not None
    b = slide.bounds
    if b.area * mpp.um2_per_px > _FIELD_UM2:
        require_tissue(slide.path, tissue)
        return tissue, estimate_slide_stain(slide, tissue, config.counting)
    if not tissue.brightfield:
        require_tissue(slide.path, tissue)
    factor = max(1.0, _STAIN_MPP / mpp.mean)
    size = Size(max(1, round(b.width / factor)), max(1, round(b.height / factor)))
    image = read_window(slide, b, size)
    return None, estimate_stain([image], config.counting, mpp.mean * b.width / size.width)


def _count_to_files(
    slide: Slide,
    request: CountRequest,
    config: Config,
    region: Region | None,
    how: tuple[WindowPlan, SlideStain],
    jobs: int,
    progress: Progress,
) -> _Tally:
    settings, out = config.counting, request.out
    offset = (slide.bounds.x, slide.bounds.y) if request.geojson_origin == "bounds" else (0.0, 0.0)
    parts: list[Cells] = []
    with (
        replacing(out / "cells.csv") as csv_path,
        replacing(out / "cells.geojson") as geojson_path,
        csv_path.open("w", encoding="utf-8") as csv,
        geojson_path.open("w", encoding="utf-8") as geojson,
        CellFiles(csv, geojson, slide=slide.name, origin=request.geojson_origin, offset_px0=offset) as files,
    ):
        for found in _found(request, config, how, jobs, progress):
            tumour = found.cells.tumour if region is None else _tumour_by(region, found.cells)
            cells = dataclasses.replace(found.cells, tumour=tumour)
            positive = cells.cell_class == CellClass.POSITIVE
            files.append(found, tumour, intensity_class(cells.dab_od, positive, settings))
            parts.append(cells)
    cells = Cells.concatenated(parts)
    mpp = slide.mpp
    assert mpp is not None
    box = close_up_box(slide, cells, (mpp.x, mpp.y))
    return _Tally(cells, box, _rings_in(box, request, config, how))


def _found(
    request: CountRequest, config: Config, how: tuple[WindowPlan, SlideStain], jobs: int, progress: Progress
) -> Iterator[FoundCells]:
    plan, stain = how
    tasks = window_tasks(request.slide, plan, request.marker, stain, config.counting)
    ahead = _AHEAD * jobs

    def results() -> Iterator[FoundCells]:
        with local_executor(min(jobs, max(1, len(tasks)))) as executor:
            for i in range(0, len(tasks), ahead):
                for group in map_in_order(executor, count_windows, tasks[i : i + ahead]):
                    yield from group

    return progress.track(results(), len(plan.windows), "counting", "window")


def _tumour_by(region: Region, cells: Cells) -> npt.NDArray[np.bool_]:
    return np.asarray(region.contains(cells.xy) & (cells.cell_class != CellClass.OTHER), np.bool_)


def _rings_in(
    box: Box, request: CountRequest, config: Config, how: tuple[WindowPlan, SlideStain]
) -> list[tuple[int, Points]]:
    """Counts the few windows of the close-up once more: cheaper than to keep every outline of the slide."""
    plan, stain = how
    sx, sy = plan.scale
    near = tuple(
        w
        for w in plan.windows
        if w.core_x * sx < box.x1 and w.core_x1 * sx > box.x and w.core_y * sy < box.y1 and w.core_y1 * sy > box.y
    )
    tasks = window_tasks(request.slide, dataclasses.replace(plan, windows=near), request.marker, stain, config.counting)
    rings = []
    for found in (f for task in tasks for f in count_windows(task)):
        for (x, y), kind, ring in zip(found.cells.xy, found.cells.cell_class, found.rings, strict=True):
            if box.x <= x < box.x1 and box.y <= y < box.y1:
                rings.append((int(kind), ring))
    return rings


def _summary(
    slide: Slide,
    request: CountRequest,
    config: Config,
    cells: Cells,
    how: tuple[WindowPlan, SlideStain, TissueMap | None],
) -> dict[str, Any]:
    plan, stain, tissue = how
    settings, mpp = config.counting, slide.mpp
    assert mpp is not None
    tumour = read_cells(cells, settings, tumour_only=True)
    nuclei = read_cells(cells, settings, tumour_only=False)
    other = int(np.count_nonzero(cells.cell_class == CellClass.OTHER))
    warnings = [*slide.warnings, *(f"stain: {FLAG_SENTENCES.get(flag, flag)}" for flag in stain.flags)]
    if tumour.ratio is None:
        warnings.append("tumour: every reading is null: no tumour cells were counted")
    if nuclei.ratio is None:
        warnings.append("all_nuclei: every reading is null: no nuclei were counted")
    return {
        "schema_version": 1,
        "slide": {"name": slide.name, "format": slide.format, "mpp": [mpp.x, mpp.y], "mpp_origin": mpp.origin},
        "marker": request.marker.value,
        "value_definition": settings.value_definition.value,
        "tumour_source": NUCLEAR_FEATURES if request.roi is None else REGION,
        "tumour": tumour.to_dict(),
        "all_nuclei": nuclei.to_dict(),
        "other_objects": other,
        "intensity_cutoffs_dab_od": [round(stain.positive_od, 6), settings.class_2_od, settings.class_3_od],
        "allred_proportion_bins": ALLRED_BINS,
        "allred_intensity_rule": ALLRED_INTENSITY,
        "searched": "whole image" if tissue is None else "windows with tissue",
        "windows": len(plan.windows),
        "stain": stain.to_dict(),
        "warnings": warnings,
    }


def _title(summary: dict[str, Any]) -> str:
    """ASCII: OpenCV's fonts know nothing else."""

    def part(name: str, value: dict[str, Any]) -> str:
        if value["ratio"] is None:
            return f"{name}: no cells"
        return f"{name}: {value['positive']} / {value['nuclei']} = {100 * value['ratio']:.1f} %"

    marker = Marker(summary["marker"]).label
    return f"{marker}   {part('tumour', summary['tumour'])}   {part('all nuclei', summary['all_nuclei'])}"


def describe(summary: dict[str, Any], out: Path) -> str:
    """What the command prints."""
    lines = [_title(summary)]
    tumour = summary["tumour"]
    if tumour["ratio"] is not None:
        lines.append(
            f"standard error {100 * tumour['standard_error']:.1f} points   H-score {tumour['h_score']:.0f}   "
            f"Allred {tumour['allred']}   (tumour cells by {summary['tumour_source'].replace('_', ' ')})"
        )
    lines += [f"warning: {text}" for text in summary["warnings"]]
    return "\n".join([*lines, f"overlay: {out / 'overlay.jpg'}"])
