"""`vstain count`: one IHC slide → count.html, cells.csv, cells.geojson, summary.json, overlay.jpg, overlay_full.jpg,
stain.png, run.json, and overlay.ome.tif where it is asked for."""

from __future__ import annotations

import dataclasses
import datetime
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
from virtual_stain.config.counting import CountingSettings
from virtual_stain.counting.cell_files import CellFiles
from virtual_stain.counting.cells import CellClass, Cells
from virtual_stain.counting.given import GivenCells
from virtual_stain.counting.given_files import read_given_cells
from virtual_stain.counting.outlines import Outline
from virtual_stain.counting.overlay import Drawn, close_up_box, draw_full, draw_overlay, full_box
from virtual_stain.counting.quality import Quality
from virtual_stain.counting.region import PolygonRegion, Region, read_region
from virtual_stain.counting.region_border import border_of
from virtual_stain.counting.region_model import RegionModel, region_of
from virtual_stain.counting.slide_stain import NO_CLASS_IS_RIGHT, SlideStain
from virtual_stain.counting.stain import FLAG_SENTENCES, StainEvidence, examine_slide_stain, examine_stain
from virtual_stain.counting.stain_plot import draw_stain
from virtual_stain.counting.tumour import IMPORTED, MODEL, NUCLEAR_FEATURES, REGION
from virtual_stain.counting.windows import (
    FoundCells,
    WindowTask,
    count_windows,
    plan_windows,
    window_tasks,
    windows_with,
)
from virtual_stain.errors import InputError
from virtual_stain.files import folder_lock, replacing, sha256_file, write_bytes, write_json
from virtual_stain.geometry import Box, Points, Size
from virtual_stain.markers import Compartment, Marker
from virtual_stain.parallel import local_executor, map_in_order
from virtual_stain.progress import QUIET, Progress
from virtual_stain.provenance import RunRecord
from virtual_stain.reuse import MadeFrom, made_from
from virtual_stain.slides.probe import require_survivable
from virtual_stain.slides.slide import Slide, SlideRef, open_slide
from virtual_stain.slides.tissue import TissueMap, examined, find_tissue, require_tissue
from virtual_stain.slides.unknown import UnknownArea
from virtual_stain.slides.window import read_window
from virtual_stain.workflows.count_folder import claim, finished, show_refused_stain, staging, take_places
from virtual_stain.workflows.count_overlay import OVERLAY_NAME, RingStore, square, write_overlay
from virtual_stain.workflows.count_page import PAGE_NAME, count_page
from virtual_stain.workflows.count_summary import CountFacts, count_pale, read_area_mm2, summarize
from virtual_stain.workflows.count_words import headline_of

ORIGINS = ("bounds", "slide")
_FIELD_UM2 = 4e6  # up to 2 × 2 mm the whole image is counted: a tissue mask needs a slide around the tissue
_STAIN_MPP = 0.25  # … and its stain is estimated from all of it, at about this pixel size
_AHEAD = 4  # tasks per process that may wait to be written: bounds the memory


@dataclass(frozen=True, slots=True)
class CountRequest:
    """What to count and where to write it."""

    slide: SlideRef
    marker: Marker
    out: Path
    roi: Path | None = None
    cells: Path | None = None
    """Detections of another program, which are measured instead of looking for nuclei."""
    geojson_origin: str = "bounds"
    """Frame of `roi`, of GeoJSON in `cells` and of cells.geojson: "bounds" (QuPath: px0 from the corner of the scan)
    or "slide"."""
    full_overlay: bool = False
    """Also overlay.ome.tif: all of the slide with its outlines at full resolution."""


@dataclass(frozen=True, slots=True)
class _Tally:
    """Everything that was counted, in memory: about 60 bytes a cell."""

    cells: Cells
    intensity: npt.NDArray[np.uint8]
    quality: tuple[Quality, ...]
    close_up: Box
    outlines: list[Outline]
    """Outlines in the close-up and in the part that is shown at full resolution."""
    pale: int
    """How many show hardly any stain."""
    border: list[Points]
    """Of the region of interest, px0."""


def count_slide(
    request: CountRequest,
    config: Config,
    *,
    jobs: int = 1,
    force: bool = False,
    progress: Progress = QUIET,
    region_model: RegionModel | None = None,
) -> dict[str, Any]:
    """Counts one slide and returns what stands in summary.json.

    `region_model`: says where the tumour is, if no region of interest was drawn. Raises ConfigError, ResolutionError,
    SlideError, NoTissueError, InputError (region of interest, cells, a stain that is not DAB), OutputError (unwritable,
    or the folder holds another command's run, or the count of another slide or of other settings and `force` is not
    given). A finished count of the same inputs, settings and code is kept, unless `force`; so it is until all files of
    the new one are there. A run that was killed is done again from the start. What a `region_model` answers is
    not known before it is asked: with one, everything is counted again.
    """
    require_one_of("geojson_origin", request.geojson_origin, ORIGINS)
    record = RunRecord("count", config=config.to_dict())
    require_survivable(request.slide)
    with open_slide(request.slide) as slide:
        plan_windows(slide, None, config.counting)  # refuses a wrong pixel size before anything slow
        how = _how(slide, request, region_model)
        record.inputs[str(request.slide.path)] = slide.content_hash()
        for extra in (request.roi, request.cells):
            if extra is not None:
                record.inputs[str(extra)] = sha256_file(extra)
        made = _made_from(request, config, slide, how.tumour_source)
        with folder_lock(request.out):
            claim(request.out, made, force=force)
            if not force and region_model is None:
                kept = finished(request.out, made, full_overlay=request.full_overlay)
                if kept is not None:
                    progress.say(f"{request.out}: already counted, kept; --force counts again")
                    return kept
            with staging(request.out) as staged:
                summary = _count(slide, dataclasses.replace(request, out=staged), config, how, record, jobs, progress)
                take_places(staged, request.out, made, record)
    return summary


@dataclass(frozen=True, slots=True)
class _How:
    """Where the cells and the tumour come from."""

    given: GivenCells | None
    region: Region | None
    tumour_source: str


def _how(slide: Slide, request: CountRequest, region_model: RegionModel | None) -> _How:
    mpp = slide.mpp
    assert mpp is not None  # plan_windows refused the slide otherwise
    given = None
    if request.cells is not None:
        given = read_given_cells(request.cells, slide.bounds, (mpp.x, mpp.y), request.geojson_origin, slide.name)
    if request.roi is not None:
        return _How(given, read_region(request.roi, slide.bounds, request.geojson_origin, slide.name), REGION)
    if region_model is not None:
        return _How(given, region_of(region_model, slide), MODEL + region_model.name)
    return _How(given, None, NUCLEAR_FEATURES if given is None else IMPORTED)


def _region_notes(region: Region | None) -> tuple[str, ...]:
    return region.notes if isinstance(region, PolygonRegion) else ()


def _made_from(request: CountRequest, config: Config, slide: Slide, tumour_source: str) -> MadeFrom:
    settings = config.to_dict()
    mpp = slide.mpp
    assert mpp is not None
    return made_from(
        __name__,
        inputs={
            "content_sha256": slide.content_hash(),
            "roi_sha256": None if request.roi is None else sha256_file(request.roi),
            "cells_sha256": None if request.cells is None else sha256_file(request.cells),
            "tumour_source": tumour_source,
            "marker": request.marker.value,
            "mpp": [mpp.x, mpp.y],
            "geojson_origin": request.geojson_origin,
        },
        settings={section: settings[section] for section in ("counting", "tissue")},
    )


def _count(
    slide: Slide,
    request: CountRequest,
    config: Config,
    how: _How,
    record: RunRecord,
    jobs: int,
    progress: Progress,
) -> dict[str, Any]:
    settings, out = config.counting, request.out
    start = time.monotonic()
    ground, evidence = _tissue_and_stain(slide, config, membrane=request.marker.compartment is Compartment.MEMBRANE)
    tissue = ground if _is_masked(slide) else None
    stain_picture = draw_stain(evidence, settings, f"{request.marker.label}: the stain of {slide.name}")
    write_bytes(out / "stain.png", stain_picture)
    _require_dab(slide, evidence.stain, settings, out)
    mpp = slide.mpp
    assert mpp is not None
    everywhere = plan_windows(slide, None, settings)
    area_mm2, area_of = read_area_mm2(everywhere, (mpp.x, mpp.y), ground, how.region, whole_image=tissue is None)
    # cells that are given are all measured, tissue or not
    given, of_given = _given_on_scan(how.given, ground.blank)
    plan = plan_windows(slide, tissue, settings) if given is None else windows_with(given, everywhere)
    record.durations_s["stain"] = time.monotonic() - start
    start = time.monotonic()
    tasks = window_tasks(request.slide, plan, request.marker, evidence.stain, settings, given, ground.blank)
    found = _count_windows(tasks, jobs, progress)
    if given is None:  # the border of what no camera took looks like dark nuclei
        found = (_scanned(f, ground.blank) for f in found)
    tally = _count_to_files(slide, request, how, evidence.stain, found, progress)
    record.durations_s["cells"] = time.monotonic() - start
    facts = CountFacts(
        marker=request.marker,
        tumour_source=how.tumour_source,
        detector="vstain" if given is None else given.detector,
        given=given,
        plan=plan,
        stain=evidence.stain,
        whole_image=tissue is None,
        tissue_warnings=(*ground.warnings, *_region_notes(how.region), *of_given),
        area_mm2=area_mm2,
        area_of=area_of,
        pale=tally.pale,
    )
    summary = summarize(slide, facts, tally.cells, tally.intensity, tally.quality, settings)
    date = _date_of(slide.path)
    drawn = Drawn(tally.cells, tally.outlines, tally.border, how.tumour_source, date)
    overlay = _jpeg(draw_overlay(slide, drawn, tally.close_up, headline_of(summary)))
    full = _jpeg(draw_full(slide, drawn, full_box(slide, tally.close_up)))
    page = count_page(
        summary, overlay=overlay, full=full, stain=stain_picture, date=date, settings=config.to_dict()["counting"]
    )
    write_bytes(out / "overlay.jpg", overlay)
    write_bytes(out / "overlay_full.jpg", full)
    write_bytes(out / PAGE_NAME, page.encode())
    write_json(out / "summary.json", summary)
    record.counts = {
        "cells": len(tally.cells),
        "tumour_positive": summary["tumour"]["positive"],
        "tumour_negative": summary["tumour"]["negative"],
        "windows": len(plan.windows),
    }
    return summary


def _date_of(path: Path) -> str:
    """UTC date of the slide's file, ISO 8601. The day of the count stands in run.json: a count repeated on another day
    gives the same bytes."""
    changed_unix_s = path.stat().st_mtime
    return datetime.datetime.fromtimestamp(changed_unix_s, datetime.UTC).date().isoformat()


def _require_dab(slide: Slide, stain: SlideStain, settings: CountingSettings, made: Path) -> None:
    """An H&E slide has pink nuclei by the thousand, and a percentage of them is a number that looks like any other."""
    if stain.is_hematoxylin_dab or settings.any_stain:
        return
    reasons = "; ".join(FLAG_SENTENCES[flag] for flag in stain.flags if flag in NO_CLASS_IS_RIGHT)
    picture = show_refused_stain(made, made.parent)
    raise InputError(
        f"{slide.path}: expected an IHC slide, blue and brown. Received: {reasons}. Look at {picture}",
        hint="Is it the H&E slide of the pair? To read it all the same: --set counting.any_stain=true --force",
    )


def _jpeg(picture: npt.NDArray[np.uint8]) -> bytes:
    return bytes(cv2.imencode(".jpg", picture[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes())


def _is_masked(slide: Slide) -> bool:
    """Whether tissue is looked for; an image that is smaller is all looked at."""
    mpp = slide.mpp
    assert mpp is not None
    return slide.bounds.area * mpp.um2_per_px > _FIELD_UM2


def _tissue_and_stain(slide: Slide, config: Config, *, membrane: bool) -> tuple[TissueMap, StainEvidence]:
    tissue = examined(slide, find_tissue(slide, config.tissue))
    mpp = slide.mpp
    assert mpp is not None
    b = slide.bounds
    if _is_masked(slide):
        require_tissue(slide.path, tissue)
        return tissue, examine_slide_stain(slide, tissue, config.counting, membrane=membrane)
    if not tissue.brightfield:
        require_tissue(slide.path, tissue)
    factor = max(1.0, _STAIN_MPP / mpp.mean)
    size = Size(max(1, round(b.width / factor)), max(1, round(b.height / factor)))
    image = tissue.without_unknown(read_window(slide, b, size), b)
    pixel = mpp.mean * b.width / size.width
    return tissue, examine_stain([image], config.counting, pixel, membrane=membrane)


def _count_to_files(
    slide: Slide,
    request: CountRequest,
    how: _How,
    stain: SlideStain,
    windows: Iterator[FoundCells],
    progress: Progress,
) -> _Tally:
    out = request.out
    offset = (slide.bounds.x, slide.bounds.y) if request.geojson_origin == "bounds" else (0.0, 0.0)
    parts: list[Cells] = []
    intensities: list[npt.NDArray[np.uint8]] = [np.zeros(0, np.uint8)]
    quality: list[Quality] = []
    pale = 0
    mpp = slide.mpp
    assert mpp is not None
    with (
        RingStore(out) as store,
        replacing(out / "cells.csv") as csv_path,
        replacing(out / "cells.geojson") as geojson_path,
        csv_path.open("w", encoding="utf-8") as csv,
        geojson_path.open("w", encoding="utf-8") as geojson,
        CellFiles(
            csv,
            geojson,
            slide=slide.name,
            origin=request.geojson_origin,
            offset_px0=offset,
            tumour_source=how.tumour_source,
        ) as files,
    ):
        for found in windows:
            tumour = found.cells.tumour if how.region is None else _tumour_by(how.region, found.cells)
            files.append(found, tumour)
            parts.append(dataclasses.replace(found.cells, tumour=tumour))
            intensities.append(found.intensity)
            quality.append(found.quality)
            pale += count_pale(found, stain)
            for kind, is_tumour, ring, (x, y) in zip(
                found.cells.cell_class, tumour, found.rings, found.cells.xy, strict=True
            ):
                drawn = square((x, y), (mpp.x, mpp.y)) if ring is None else ring
                store.append(Outline(int(kind), bool(is_tumour), drawn))
        border = [] if how.region is None else border_of(how.region, slide.bounds)
        if request.full_overlay:
            write_overlay(slide, store, out / OVERLAY_NAME, border, how.tumour_source, progress)
        cells = Cells.concatenated(parts)
        box = close_up_box(slide, cells, (mpp.x, mpp.y))
        outlines = store.outlines(_in_box(full_box(slide, box), cells.xy))
    return _Tally(cells, np.concatenate(intensities), tuple(quality), box, outlines, pale, border)


def _given_on_scan(given: GivenCells | None, blank: UnknownArea | None) -> tuple[GivenCells | None, tuple[str, ...]]:
    """The given cells that lie where a camera took a picture, and a warning about the others."""
    if given is None or blank is None:
        return given, ()
    known = ~blank.at(given.xy)
    if known.all():
        return given, ()
    lost = int(np.count_nonzero(~known))
    return given.select(known), (
        f"cells: {lost} of {len(given)} given cells lie where no camera took a picture: left out",
    )


def _scanned(found: FoundCells, blank: UnknownArea | None) -> FoundCells:
    """Without the cells at places that no camera took."""
    return found if blank is None else found.select(~blank.at(found.cells.xy))


def _in_box(box: Box, xy: Points) -> npt.NDArray[np.intp]:
    low, high = (box.x, box.y), (box.x1, box.y1)
    return np.asarray(np.flatnonzero(((xy >= low) & (xy < high)).all(axis=1)), np.intp)


def _count_windows(tasks: list[WindowTask], jobs: int, progress: Progress) -> Iterator[FoundCells]:
    ahead = _AHEAD * jobs

    def results() -> Iterator[FoundCells]:
        with local_executor(min(jobs, max(1, len(tasks)))) as executor:
            for i in range(0, len(tasks), ahead):
                for group in map_in_order(executor, count_windows, tasks[i : i + ahead]):
                    yield from group

    return progress.track(results(), sum(len(t.windows) for t in tasks), "counting", "window")


def _tumour_by(region: Region, cells: Cells) -> npt.NDArray[np.bool_]:
    return np.asarray(region.contains(cells.xy) & (cells.cell_class != CellClass.OTHER), np.bool_)
