"""One slide through the model: tissue, tiles, reading and network overlapped; the answers of every tile."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from virtual_stain.config import ScoringSettings, TissueSettings
from virtual_stain.errors import ModelError, SlideError
from virtual_stain.export.card import ModelCard, cells_key
from virtual_stain.markers import Marker
from virtual_stain.progress import QUIET, Progress
from virtual_stain.score.predictor import Predictor, Tiles
from virtual_stain.score.reading import ReadAhead
from virtual_stain.slides.resolution import READING_RANGE, Mpp, require_mpp
from virtual_stain.slides.slide import Slide, open_slide
from virtual_stain.slides.tissue import TissueMap, find_tissue, require_tissue
from virtual_stain.slides.window import read_window
from virtual_stain.tiles import TilePlan, TileRef, plan_tiles

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class MarkerScores:
    """What the network says about one marker; arrays run over the tissue tiles of the plan, float64[N]."""

    fraction: Floats
    """0–1; NaN: no reading."""
    tumour_cells: Floats
    """Expected number ≥ 0; NaN: no reading."""
    used: Bools
    """The tile enters the slide's readings: tissue and expected tumour cells reach the bundle's thresholds."""


@dataclass(frozen=True, eq=False)
class SlideScore:
    """All tissue tiles of one slide, scored."""

    card: ModelCard
    mpp: Mpp
    tissue: TissueMap
    tissue_um2: float
    plan: TilePlan
    markers: dict[Marker, MarkerScores]
    failed: dict[int, str]
    """Index of a tile that could not be read → why."""
    flags: tuple[tuple[str, ...], ...]
    """Per tile: border, low_tissue, few_cells (with :marker when there are several), read_failed, no_reading."""
    timing_s: dict[str, float]

    @property
    def tiles(self) -> tuple[TileRef, ...]:
        return self.plan.tiles


def score_slide(
    slide: Slide,
    predictor: Predictor,
    settings: ScoringSettings,
    tissue_settings: TissueSettings,
    *,
    jobs: int = 1,
    progress: Progress = QUIET,
) -> SlideScore:
    """Finds tissue, reads every window with any of it in `jobs` threads while the network works, keeps all answers.

    The grid, the thresholds and the markers are the model card's. The result does not depend on `jobs` or on
    `settings.batch_size` beyond rounding (1e-6). A tile that cannot be read is listed in `failed`.
    Raises ResolutionError, NoTissueError, SlideError (nothing could be read), ModelError.
    """
    card = predictor.card
    start = time.monotonic()
    mpp = require_mpp(slide, READING_RANGE)
    tissue = find_tissue(slide, tissue_settings)
    require_tissue(slide.path, tissue)
    plan = plan_tiles(slide, tissue, card.tiling)
    timing = {"tissue": time.monotonic() - start}
    names = [name for m in card.markers for name in (m.value, cells_key(m))]
    answers = {name: np.full(len(plan.tiles), np.nan) for name in names}
    failed: dict[int, str] = {}

    @contextlib.contextmanager
    def open_reader() -> Iterator[Callable[[int], Tiles]]:
        with open_slide(slide.ref) as own:
            yield lambda index: read_window(own, plan.tiles[index].box, plan.grid.tile_size)

    ahead = settings.batch_size * (settings.read_ahead_batches + 1)
    indices = range(len(plan.tiles))
    network_s = 0.0
    with ReadAhead(open_reader, indices, jobs=jobs, ahead=ahead, timeout_s=settings.read_timeout_s) as reader:
        tracked = progress.track(reader, len(plan.tiles), f"score {slide.name}", "tile")
        for batch, images in _batches(tracked, settings.batch_size, failed):
            begin = time.monotonic()
            for name, values in _predict(predictor, images, names).items():
                answers[name][batch] = values
            network_s += time.monotonic() - begin
            timing.setdefault("first_batch", time.monotonic() - start)
        timing |= {"network": network_s, "waited_for_reading": reader.wait_s}
    if plan.tiles and len(failed) == len(plan.tiles):
        raise SlideError(f"{slide.path}: none of its {len(failed)} tiles could be read. The first: {failed[0]}")
    timing["total"] = time.monotonic() - start
    markers = {m: _marker_scores(m, answers, plan.tiles, card) for m in card.markers}
    flags = tuple(_flags(i, tile, markers, failed, card) for i, tile in enumerate(plan.tiles))
    return SlideScore(card, mpp, tissue, tissue.area_um2(mpp), plan, markers, failed, flags, timing)


def _batches(
    results: Iterator[tuple[int, Tiles | SlideError]], size: int, failed: dict[int, str]
) -> Iterator[tuple[list[int], list[Tiles]]]:
    """Groups of `size` readable tiles in their order; the failures go into `failed`."""
    batch: list[int] = []
    images: list[Tiles] = []
    for index, result in results:
        if isinstance(result, SlideError):
            failed[index] = result.message
            continue
        batch.append(index)
        images.append(result)
        if len(batch) == size:
            yield batch, images
            batch, images = [], []
    if batch:
        yield batch, images


def _predict(predictor: Predictor, images: Sequence[Tiles], names: Sequence[str]) -> dict[str, Floats]:
    """The network's answers, checked: a model that answers nonsense must not become a reading."""
    answers = predictor.predict(np.stack(images))
    result = {}
    for name in names:
        if name not in answers:
            raise ModelError(f"expected the model to answer {name}. Received: {sorted(answers)}")
        values = np.asarray(answers[name], np.float64)
        if values.shape != (len(images),):
            raise ModelError(f"expected {len(images)} values of {name}. Received: shape {values.shape}")
        high = np.inf if name.endswith("_tumour_cells") else 1.0
        if np.isinf(values).any() or (values < 0).any() or (values > high).any():
            raise ModelError(f"expected {name} from 0 to {high:g}. Received: {values.min():g} to {values.max():g}")
        result[name] = values
    return result


def _marker_scores(
    marker: Marker, answers: dict[str, Floats], tiles: Sequence[TileRef], card: ModelCard
) -> MarkerScores:
    fraction, cells = answers[marker.value], answers[cells_key(marker)]
    tissue = np.array([t.tissue_fraction for t in tiles], np.float64)
    known = np.isfinite(fraction) & np.isfinite(cells)
    enough = np.nan_to_num(cells) >= card.min_tumour_cells
    return MarkerScores(fraction, cells, known & enough & (tissue >= card.min_tissue_fraction))


def _flags(
    index: int, tile: TileRef, markers: dict[Marker, MarkerScores], failed: dict[int, str], card: ModelCard
) -> tuple[str, ...]:
    flags = ["border"] if tile.border else []
    if tile.tissue_fraction < card.min_tissue_fraction:
        flags.append("low_tissue")
    if index in failed:
        return (*flags, "read_failed")
    for marker, scores in markers.items():
        suffix = f":{marker.value}" if len(markers) > 1 else ""
        cells = scores.tumour_cells[index]
        if not (np.isfinite(cells) and np.isfinite(scores.fraction[index])):
            flags.append(f"no_reading{suffix}")
        elif cells < card.min_tumour_cells:
            flags.append(f"few_cells{suffix}")
    return tuple(flags)
