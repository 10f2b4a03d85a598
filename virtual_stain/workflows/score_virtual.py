"""`vstain score --virtual-slide`: the slide as a virtual one, and what the counter reads on it."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from virtual_stain.config import CountingSettings
from virtual_stain.errors import ModelError, SlideError
from virtual_stain.exporting.card import ModelCard
from virtual_stain.files import output_errors, sha256_file
from virtual_stain.geometry import Size
from virtual_stain.markers import Marker
from virtual_stain.progress import Progress
from virtual_stain.report.notes import Note
from virtual_stain.report.report import SlideReport
from virtual_stain.reuse import code_sha256
from virtual_stain.scoring.predictor import Predictor
from virtual_stain.slides.slide import Slide
from virtual_stain.slides.virtual_mark import VIRTUAL_SENTENCE
from virtual_stain.tiles import TileGrid, TileRef
from virtual_stain.virtual.draw import slide_seed
from virtual_stain.virtual.reading import FLAG_SENTENCES, VirtualReading, of_slide
from virtual_stain.workflows.score_addition import Added
from virtual_stain.workflows.virtual_pyramid import Canvas, Rgb, tinted, without_reading, write_virtual_slide
from virtual_stain.workflows.virtual_slide import VirtualReader, he_stain

_UNREADABLE_GREY = 160
_HOW_TO_TRAIN = (
    "Train one: vstain build-records … --set labels.keep_ihc=true, then vstain fit … --set model.path=indirect. "
    "docs/virtual.md has the whole way."
)


@dataclass(frozen=True, slots=True)
class VirtualSlides:
    """Draws every slide of a run; an `Addition` to its score."""

    counting: CountingSettings

    def require(self, model: Predictor) -> None:
        """Raises ModelError for a direct model, one without a generator, and one whose windows overlap."""
        card = model.card
        if card.training.get("path") != "indirect":
            raise ModelError(
                f"--virtual-slide: expected a model of the indirect path. Received: {card.name}, of the direct one, "
                "which predicts values and no picture.",
                hint=_HOW_TO_TRAIN,
            )
        if not math.isclose(card.tiling.step_um, card.tiling.window_um):
            raise ModelError(
                f"--virtual-slide: expected a model whose windows lie beside each other. Received: {card.name}, with "
                f"windows of {card.tiling.window_um:g} µm every {card.tiling.step_um:g} µm."
            )
        model.maps(np.full((1, 64, 64, 3), 255, np.uint8))

    def settings(self) -> dict[str, Any]:
        """Of counting, and the code that draws and counts."""
        return {"counting": dataclasses.asdict(self.counting), "code_sha256": code_sha256(__name__)}

    def names(self, stem: str, card: ModelCard) -> tuple[str, ...]:
        """The virtual slide's."""
        (marker,) = card.markers
        return (f"{stem}.{marker}.virtual.ome.tif",)

    def make(
        self, slide: Slide, report: SlideReport, model: Predictor, folder: Path, stem: str, progress: Progress
    ) -> Added:
        """Draws the tiles that carry a reading, shows the other tissue in grey, and writes the file."""
        card, score = model.card, report.score
        (marker,) = card.markers
        (name,) = self.names(stem, card)
        readings: dict[int, VirtualReading] = {}
        path, grid = folder / name, score.plan.grid
        reader = VirtualReader(
            slide=slide,
            tissue=score.tissue,
            grid=grid,
            generator=model.maps,
            marker=marker,
            stain=he_stain(slide, score.tissue, self.counting),
            seed=slide_seed(report.slide.content_sha256),
            settings=self.counting,
            halo_px=int(card.training["map"]["halo_px"]),
        )
        used = score.markers[marker].used
        tiles = progress.track(enumerate(score.tiles), len(score.tiles), f"draw {slide.name}", "tile")
        with output_errors(path), _scratch(folder / f".{stem}.virtual") as scratch:
            canvas = Canvas(scratch, frame_of(slide, grid))
            for index, tile in tiles:
                picture = None
                if used[index]:
                    with contextlib.suppress(SlideError):  # of damaged surroundings: grey, and no reading
                        read = reader.read(tile)
                        readings[index], picture = read.reading, tinted(read.drawn)
                canvas.draw(tile.col * grid.tile_px, tile.row * grid.tile_px, _shown(reader, tile, picture))
            write_virtual_slide(path, canvas, grid.tile_mpp, _facts(report, marker), progress)
        files = {name: {"sha256": sha256_file(path), "bytes": path.stat().st_size}}
        return Added(_with_readings(report, readings, name), _columns(marker, readings, len(score.tiles)), files)


@contextlib.contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """An empty folder that does not stay; that of a run that was killed goes, too."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def frame_of(slide: Slide, grid: TileGrid) -> Size:
    """The H&E's scan at the model's pixel size."""
    width, height = slide.bounds.width * grid.mpp.x, slide.bounds.height * grid.mpp.y
    return Size(max(1, round(width / grid.tile_mpp)), max(1, round(height / grid.tile_mpp)))


def _shown(reader: VirtualReader, tile: TileRef, picture: Rgb | None) -> Rgb:
    """What was drawn; else the H&E in grey, or plain grey where it cannot be read."""
    if picture is not None:
        return picture
    try:
        return without_reading(reader.he(tile))
    except SlideError:
        return np.full((reader.grid.tile_px, reader.grid.tile_px, 3), _UNREADABLE_GREY, np.uint8)


def _facts(report: SlideReport, marker: Marker) -> dict[str, str]:
    card = report.score.card
    return {
        "marker": marker.value,
        "path": "indirect",
        "picture": "drawn: which nucleus is brown is an illustration",
        "model": f"{card.name} version {card.version}",
        "model_sha256": report.model_sha256,
        "he_sha256": report.slide.content_sha256,
    }


def _with_readings(report: SlideReport, readings: Mapping[int, VirtualReading], name: str) -> SlideReport:
    """The report with the three readings of the slide, their flags, and those of its tiles."""
    whole = of_slide(readings.values())
    flags = [(*own, *(readings[i].flags if i in readings else ())) for i, own in enumerate(report.score.flags)]
    notes = tuple(Note(flag, f"Virtual slide: {FLAG_SENTENCES[flag]}.") for flag in whole.flags)
    value = {
        "file": name,
        "notice": f"{VIRTUAL_SENTENCE}; which nucleus is brown is an illustration",
        "counted": whole.counted,
        "expected": whole.expected,
        "density": whole.density,
        "counted_tumour_cells": whole.counted_cells,
        "expected_tumour_cells": whole.expected_cells,
        "tiles": len(readings),
        "tiles_flagged": {flag: sum(flag in r.flags for r in readings.values()) for flag in FLAG_SENTENCES},
    }
    return dataclasses.replace(
        report,
        score=dataclasses.replace(report.score, flags=tuple(flags)),
        notes=report.notes + notes,
        slide_flags=(*report.slide_flags, *whole.flags),
        virtual=value,
    )


def _columns(marker: Marker, readings: Mapping[int, VirtualReading], count: int) -> dict[str, list[str]]:
    """Of tiles.csv; empty fields where a tile was not drawn."""
    columns = {
        f"{marker}_{name}": [_text(getattr(readings[i], name), 6) if i in readings else "" for i in range(count)]
        for name in ("counted", "expected", "density")
    }
    for name in ("counted_cells", "expected_cells"):
        values = [_text(getattr(readings[i], name), 3) if i in readings else "" for i in range(count)]
        columns[f"{marker}_virtual_{name}"] = values
    return columns


def _text(value: float | None, decimals: int) -> str:
    return "" if value is None else f"{value:.{decimals}f}"
