"""One slide through the model: tissue, tiles, reading and network overlapped; the answers of every tile."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from virtual_stain.appearance import Appearance, tile_appearance
from virtual_stain.config import ScoringSettings, TissueSettings
from virtual_stain.errors import ModelError, SlideError
from virtual_stain.exporting.card import ModelCard
from virtual_stain.markers import CELLS, Marker
from virtual_stain.progress import QUIET, Progress
from virtual_stain.readings import per_tissue
from virtual_stain.scoring.answer_log import AnswerLog
from virtual_stain.scoring.engine_check import check_engine
from virtual_stain.scoring.in_flight import Batch, InFlight, SeenTile
from virtual_stain.scoring.predictor import Predictor, Tiles
from virtual_stain.scoring.reading import ReadAhead
from virtual_stain.slides.resolution import READING_RANGE, Mpp, require_mpp
from virtual_stain.slides.slide import Slide
from virtual_stain.slides.tissue import TissueMap, examined, find_tissue, require_tissue
from virtual_stain.slides.window import read_window
from virtual_stain.tiles import TilePlan, TileRef, plan_tiles, walking_order

_log = logging.getLogger("vstain.score")

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class MarkerScores:
    """What the network says about one marker; arrays run over the tissue tiles of the plan, float64[N]."""

    value: Floats
    """What the bundle's value definition says: a fraction 0–1, or cells per mm² of tissue; NaN: no reading."""
    tumour_cells: Floats
    """Expected number ≥ 0; NaN: no reading."""
    used: Bools
    """The tile enters the slide's readings: tissue and expected tumour cells reach the bundle's thresholds."""
    intensities: Floats | None = None
    """float64[N, 3]: shares of the tumour cells that are 1+, 2+, 3+; NaN: no reading. None: no intensities."""


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
    looks: dict[int, Appearance] = field(default_factory=dict)
    """Index of a tile → how it looks; empty where the model does not know its training slides' looks."""
    engine: dict[str, Any] = field(default_factory=dict)
    """What ran the network, in which precision, and how far it was from the reference."""

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
    tissue: TissueMap | None = None,
    journal: AnswerLog | None = None,
    progress: Progress = QUIET,
) -> SlideScore:
    """Finds tissue, reads every window with any of it in `jobs` threads while the network works, keeps all answers.

    The grid, the thresholds and the markers are the model card's. The result does not depend on `jobs` or on
    `settings.batch_size` beyond rounding (1e-6). A tile that cannot be read is listed in `failed`. `tissue`: of
    `locate_tissue`, where it is known already. `journal`: answers of a run that was interrupted; their tiles are not
    read again.
    Raises ResolutionError, NoTissueError, SlideError (too much could not be read), ModelError.
    """
    card = predictor.card
    start = time.monotonic()
    mpp = require_mpp(slide, READING_RANGE)
    tissue = require_tissue(slide.path, tissue or locate_tissue(slide, tissue_settings))
    plan = plan_tiles(slide, tissue, card.tiling)
    timing = {"tissue": time.monotonic() - start}
    check = check_engine(slide, predictor, plan, settings)
    timing["engine_check"] = time.monotonic() - start - timing["tissue"]
    names = card.outputs
    log = journal or AnswerLog.of_nothing()
    log.bind(check)
    answers, looks = log.start(names, len(plan.tiles))
    failed: dict[int, str] = {}
    left = [i for i in walking_order(plan) if i not in log.known]

    @contextlib.contextmanager
    def open_reader() -> Iterator[Callable[[int], SeenTile]]:
        with slide.twin() as own:

            def read(index: int) -> SeenTile:
                box = plan.tiles[index].box
                return _seen(tissue.without_unknown(read_window(own, box, plan.grid.tile_size), box), card)

            yield read

    size = settings.batch_size or predictor.batch_size
    ahead = size * (settings.read_ahead_batches + 1)
    with (
        log.kept_on_error(answers, looks),
        ReadAhead(open_reader, left, jobs=jobs, ahead=ahead, timeout_s=settings.read_timeout_s) as reader,
    ):
        tracked = progress.track(reader, len(left), f"score {slide.name}", "tile")
        with InFlight(lambda tiles: _predict(predictor, tiles, names), predictor) as network:
            for batch in network.answers(_batches(tracked, size, failed)):
                for name, values in batch.answers.items():
                    answers[name][batch.indices] = values
                looks |= batch.looks
                log.add(batch.indices, answers, looks)
                if "first_batch" not in timing:
                    timing["first_batch"] = time.monotonic() - start
                    _log.info("%s: first tiles scored after %.1f s", slide.name, timing["first_batch"])
        timing |= {"network": network.busy_s, "waited_for_reading": reader.wait_s}
    if len(failed) > settings.max_failed_fraction * len(plan.tiles):
        share = "none" if len(failed) == len(plan.tiles) else f"only {len(plan.tiles) - len(failed)}"
        raise SlideError(
            f"{slide.path}: {share} of its {len(plan.tiles)} tiles of tissue could be read; at most "
            f"{settings.max_failed_fraction:.0%} may fail. The first: {failed[min(failed)]}",
            hint="Copy or scan the slide again. --set scoring.max_failed_fraction=… takes what is left of it.",
        )
    timing["total"] = time.monotonic() - start
    failed = dict(sorted(failed.items()))
    markers = {m: _marker_scores(m, answers, plan.tiles, card) for m in card.markers}
    flags = tuple(_flags(i, tile, markers, failed, card) for i, tile in enumerate(plan.tiles))
    area = tissue.area_um2(mpp)
    return SlideScore(card, mpp, tissue, area, plan, markers, failed, flags, timing, looks, check)


def locate_tissue(slide: Slide, settings: TissueSettings) -> TissueMap:
    """The slide's tissue, also where there is none. Raises ResolutionError, SlideError."""
    require_mpp(slide, READING_RANGE)
    return examined(slide, find_tissue(slide, settings))


def _seen(tile: Tiles, card: ModelCard) -> SeenTile:
    """The tile, and how it looks where the model knows how its training slides looked."""
    return SeenTile(tile, tile_appearance(tile) if card.training_range else None)


def _batches(
    results: Iterator[tuple[int, SeenTile | SlideError]], size: int, failed: dict[int, str]
) -> Iterator[Batch]:
    """Groups of `size` readable tiles in their order; the failures go into `failed`."""
    batch = Batch([], [], {})
    for index, result in results:
        if isinstance(result, SlideError):
            failed[index] = result.message
            continue
        batch.indices.append(index)
        batch.tiles.append(result.tile)
        if result.look is not None:
            batch.looks[index] = result.look
        if len(batch.indices) == size:
            yield batch
            batch = Batch([], [], {})
    if batch.indices:
        yield batch


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
        is_fraction = predictor.card.value_definition.is_ratio and not name.endswith(CELLS)
        high = 1.0 if is_fraction else np.inf
        if np.isinf(values).any() or (values < 0).any() or (values > high).any():
            raise ModelError(f"expected {name} from 0 to {high:g}. Received: {values.min():g} to {values.max():g}")
        result[name] = values
    return result


def _marker_scores(
    marker: Marker, answers: dict[str, Floats], tiles: Sequence[TileRef], card: ModelCard
) -> MarkerScores:
    tissue = np.array([t.tissue_fraction for t in tiles], np.float64)
    value, cells = per_tissue(answers[marker.value], tissue, card.value_definition), answers[marker.cells_output]
    known = np.isfinite(value) & np.isfinite(cells)
    enough = np.nan_to_num(cells) >= card.min_tumour_cells
    intensities = [answers[name] for name in marker.intensity_outputs]
    shares = np.stack(intensities, axis=1) if intensities else None
    if shares is not None:
        known &= np.isfinite(shares).all(axis=1)
    return MarkerScores(value, cells, known & enough & (tissue >= card.min_tissue_fraction), shares)


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
        if not (np.isfinite(cells) and np.isfinite(scores.value[index])):
            flags.append(f"no_reading{suffix}")
        elif cells < card.min_tumour_cells:
            flags.append(f"few_cells{suffix}")
    return tuple(flags)
