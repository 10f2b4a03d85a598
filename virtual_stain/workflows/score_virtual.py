"""`vstain score --path indirect|both`, `--virtual-slide`: the counter on virtual tiles, and their picture."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from virtual_stain.config import CountingSettings, ScoringSettings
from virtual_stain.errors import ModelError, SlideError
from virtual_stain.exporting.card import ModelCard, seen_in_training
from virtual_stain.files import output_errors, sha256_file
from virtual_stain.geometry import Size
from virtual_stain.markers import Marker
from virtual_stain.patients import existing_key
from virtual_stain.progress import Progress
from virtual_stain.report.notes import Note
from virtual_stain.report.report import SlideReport
from virtual_stain.reuse import code_sha256
from virtual_stain.scoring.open_model import open_predictor
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
_SEEN = "seen_in_training"
_HOW_TO_TRAIN = (
    "Train one: vstain build-records … --set labels.keep_ihc=true, then vstain fit … --set model.path=indirect. "
    "docs/virtual.md has the whole way."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class IndirectModel:
    """A second model, of the indirect path, beside the direct one that a run scores with."""

    model: str
    """A bundle folder or a server."""
    scoring: ScoringSettings = field(default_factory=ScoringSettings)
    trusted_key: Path | None = None

    def opened(self) -> Predictor:
        """Once in a process. Raises ModelError, VerificationError, ConfigError."""
        return _opened(self)


@functools.lru_cache(maxsize=1)
def _opened(second: IndirectModel) -> Predictor:
    return open_predictor(second.model, second.scoring, second.trusted_key)


@dataclass(frozen=True, slots=True)
class VirtualSlides:
    """Reads every slide of a run by the indirect path; an `Addition` to its score."""

    counting: CountingSettings
    write_slide: bool = True
    """Also write the picture; else the three readings alone."""
    second: IndirectModel | None = None
    """The indirect model where the run scores with a direct one; None: the run's own model."""

    def require(self, model: Predictor) -> None:
        """Raises ModelError for a direct model, one without a generator, one whose windows overlap, and for two models
        that do not read the same tiles of the same marker."""
        generator = self._generator(model)
        card = generator.card
        require_path(card, "indirect", self._option())
        if self.second is not None:
            require_path(model.card, "direct", "--path both: --model")
            _require_alike(model.card, card)
        if not math.isclose(card.tiling.step_um, card.tiling.window_um):
            raise ModelError(
                f"{self._option()}: expected a model whose windows lie beside each other. Received: {card.name}, with "
                f"windows of {card.tiling.window_um:g} µm every {card.tiling.step_um:g} µm."
            )
        generator.maps(np.full((1, 64, 64, 3), 255, np.uint8))

    def settings(self) -> dict[str, Any]:
        """Of counting, the second model, and the code that draws and counts."""
        second = None if self.second is None else self.second.opened().sha256
        return {
            "counting": dataclasses.asdict(self.counting),
            "virtual_slide": self.write_slide,
            "indirect_model_sha256": second,
            "code_sha256": code_sha256(__name__),
        }

    def names(self, stem: str, card: ModelCard) -> tuple[str, ...]:
        """The virtual slide's."""
        (marker,) = card.markers
        return (f"{stem}.{marker}.virtual.ome.tif",) if self.write_slide else ()

    def make(
        self, slide: Slide, report: SlideReport, model: Predictor, folder: Path, stem: str, progress: Progress
    ) -> Added:
        """Draws and counts the tiles that carry a reading. With `write_slide` it also shows the other tissue in grey,
        and writes the file."""
        generator, score = self._generator(model), report.score
        (marker,) = score.card.markers
        reader = VirtualReader(
            slide=slide,
            tissue=score.tissue,
            grid=score.plan.grid,
            generator=generator.maps,
            marker=marker,
            stain=he_stain(slide, score.tissue, self.counting),
            seed=slide_seed(report.slide.content_sha256),
            settings=self.counting,
            halo_px=int(generator.card.training["map"]["halo_px"]),
        )
        readings: dict[int, VirtualReading] = {}
        files: dict[str, dict[str, Any]] = {}
        if self.write_slide:
            (name,) = self.names(stem, score.card)
            path, facts = folder / name, _facts(report, generator, marker)
            with output_errors(path), _scratch(folder / f".{stem}.virtual") as scratch:
                canvas = Canvas(scratch, frame_of(slide, reader.grid))
                side = reader.grid.tile_px
                for tile, picture in _read_tiles(reader, report, readings, progress, every_tile=True):
                    canvas.draw(tile.col * side, tile.row * side, _shown(reader, tile, picture))
                write_virtual_slide(path, canvas, reader.grid.tile_mpp, facts, progress)
            files[name] = {"sha256": sha256_file(path), "bytes": path.stat().st_size}
        else:
            for _ in _read_tiles(reader, report, readings, progress, every_tile=False):
                pass
        added = self._with_readings(report, generator, readings, next(iter(files), None))
        return Added(added, _columns(marker, readings, len(score.tiles)), files)

    def _generator(self, model: Predictor) -> Predictor:
        return model if self.second is None else self.second.opened()

    def _option(self) -> str:
        if self.second is not None:
            return "--indirect-model"
        return "--virtual-slide" if self.write_slide else "--path indirect"

    def _with_readings(
        self, report: SlideReport, generator: Predictor, readings: Mapping[int, VirtualReading], name: str | None
    ) -> SlideReport:
        """The report with the three readings of the slide, their flags, and those of its tiles.

        The flags also doubt the report's own reading where that is the generator's; beside a direct one they do not.
        """
        whole = of_slide(readings.values())
        sentences, raised = dict(FLAG_SENTENCES), list(whole.flags)
        if self.second is not None and seen_in_training(generator.card, report.slide.content_sha256, existing_key()):
            raised.append(_SEEN)
            sentences[_SEEN] = "the indirect model was trained on this slide, so its readings are no evidence"
        flags = [(*own, *(readings[i].flags if i in readings else ())) for i, own in enumerate(report.score.flags)]
        notes = tuple(Note(flag, f"Indirect path: {sentences[flag]}.") for flag in raised)
        value = {
            "file": name,
            "notice": f"{VIRTUAL_SENTENCE}; which nucleus is brown is an illustration",
            "model": _model_facts(generator),
            "counted": whole.counted,
            "expected": whole.expected,
            "density": whole.density,
            "counted_tumour_cells": whole.counted_cells,
            "expected_tumour_cells": whole.expected_cells,
            "tiles": len(readings),
            "flags": raised,
            "tiles_flagged": {flag: sum(flag in r.flags for r in readings.values()) for flag in FLAG_SENTENCES},
        }
        return dataclasses.replace(
            report,
            score=dataclasses.replace(report.score, flags=tuple(flags)),
            notes=report.notes + notes,
            slide_flags=report.slide_flags if self.second is not None else (*report.slide_flags, *raised),
            virtual=value,
        )


def require_path(card: ModelCard, path: str, option: str) -> None:
    """Raises ModelError for a model of the other path."""
    found = str(card.training.get("path", "direct"))
    if found == path:
        return
    if path == "indirect":
        raise ModelError(
            f"{option}: expected a model of the indirect path. Received: {card.name}, of the direct one, "
            "which predicts values and no picture.",
            hint=_HOW_TO_TRAIN,
        )
    raise ModelError(
        f"{option}: expected a model of the direct path. Received: {card.name}, of the indirect one.",
        hint="Score with it by --path indirect, or name a direct model.",
    )


def _require_alike(direct: ModelCard, indirect: ModelCard) -> None:
    """Two readings stand beside each other only where they are of the same tiles."""
    compared = [
        (c.tiling.window_um, c.tiling.tile_px, c.tiling.step_um, tuple(m.value for m in c.markers), c.value_definition)
        for c in (direct, indirect)
    ]
    if compared[0] != compared[1]:
        raise ModelError(
            "--path both: expected two models of the same tiles, marker and value (window µm, px, step µm, markers, "
            f"value): {compared[0]}. Received: {indirect.name} with {compared[1]}",
            hint="Train both on the same records.",
        )


def _read_tiles(
    reader: VirtualReader,
    report: SlideReport,
    readings: dict[int, VirtualReading],
    progress: Progress,
    *,
    every_tile: bool,
) -> Iterator[tuple[TileRef, Rgb | None]]:
    """Each tile and its picture; None without a reading. The readings are put into `readings` by number of the tile."""
    score = report.score
    used = score.markers[reader.marker].used
    wanted = [(i, tile) for i, tile in enumerate(score.tiles) if every_tile or used[i]]
    for index, tile in progress.track(wanted, len(wanted), f"draw {reader.slide.name}", "tile"):
        picture = None
        if used[index]:
            with contextlib.suppress(SlideError):  # of damaged surroundings: grey, and no reading
                read = reader.read(tile)
                readings[index], picture = read.reading, tinted(read.drawn)
        yield tile, picture


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


def _facts(report: SlideReport, generator: Predictor, marker: Marker) -> dict[str, str]:
    card = generator.card
    return {
        "marker": marker.value,
        "path": "indirect",
        "picture": "drawn: which nucleus is brown is an illustration",
        "model": f"{card.name} version {card.version}",
        "model_sha256": generator.sha256,
        "he_sha256": report.slide.content_sha256,
    }


def _model_facts(model: Predictor) -> dict[str, Any]:
    return {"name": model.card.name, "version": model.card.version, "sha256": model.sha256}


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
