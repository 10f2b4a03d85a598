"""Slides per hour of count, build-records and score, here and on a cluster of two processes, beside their floors."""

from __future__ import annotations

import contextlib
import functools
import importlib
import multiprocessing
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from virtual_stain.config import Config, TilingSettings, TissueSettings
from virtual_stain.config.phantom import PhantomSettings
from virtual_stain.geometry import Size
from virtual_stain.markers import Marker
from virtual_stain.phantom.cohort import write_cohort
from virtual_stain.scoring.inputs import collect_inputs
from virtual_stain.slides.slide import SlideRef, open_slide
from virtual_stain.slides.tissue import find_tissue
from virtual_stain.slides.window import read_window
from virtual_stain.tiles import TileGrid, TileRef, plan_tiles
from virtual_stain.workflows.build_records import BuildOptions, build_records
from virtual_stain.workflows.count_many import CountManyOptions, collect_requests, count_many
from virtual_stain.workflows.count_slide import CountRequest, count_slide
from virtual_stain.workflows.many import Finished, Task, run_many
from virtual_stain.workflows.scheduling import Workers, open_workers
from virtual_stain.workflows.score_many import score_slides
from virtual_stain.workflows.score_slides import ScoreOptions

_SLIDE_TILES = 400
_SPAWN = multiprocessing.get_context("spawn")
MODES = {"1 process": (1, 0), "2 processes": (2, 0), "cluster of 2": (1, 2)}
"""Name → (processes here, workers of a cluster)."""


def prepare(out: Path, pairs: int, size_mm: float) -> tuple[list[Path], list[Path], Path]:
    """(H&E slides, IHC slides, table of the pairs): phantoms at 0.25 µm/px, made once."""
    folder = out / f"slides-{pairs}-{size_mm:g}"
    if not (folder / "pairs.csv").exists():
        write_cohort(folder, PhantomSettings(pairs=pairs, size_mm=size_mm, he_mpp=0.25, ihc_mpp=0.25, seed=7), jobs=2)
    return *(sorted((folder / "slides").glob(f"*_{side}.*")) for side in ("he", "ihc")), folder / "pairs.csv"  # type: ignore[return-value]


def bundle(out: Path) -> Path:
    """InceptionV3 of random weights, 512-px crops: for timing alone."""
    model = out / "model"
    if not (model / "1" / "bundle.json").exists():
        with ProcessPoolExecutor(1, mp_context=_SPAWN) as pool:
            pool.submit(_write_bundle, model).result()
    return model


def _write_bundle(model: Path) -> None:
    from scoring_model import _build, write_bench_bundle

    write_bench_bundle(model, _build(512))


@contextlib.contextmanager
def cluster(workers: int) -> Iterator[str | None]:
    """Address of a LocalCluster of processes that has its workers; None without any."""
    if not workers:
        yield None
        return
    import distributed

    with distributed.LocalCluster(
        n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None, memory_limit=0
    ) as found:
        yield found.scheduler_address


def measure(out: Path, pairs: int, size_mm: float, verbs: tuple[str, ...]) -> None:
    """Prints a line a figure. Wall seconds: for a machine that does nothing else."""
    cv2.setNumThreads(1)  # as in the processes of a pool: one process is one core
    he, ihc, table = prepare(out, pairs, size_mm)
    tiles = sum(len(_tiles(path)[1]) for path in he)
    print(f"{len(he)} pairs of {size_mm:g} mm at 0.25 µm/px, {tiles / len(he):.0f} tiles of tissue each")
    print(f"floor, decoding: {_timed(lambda: _decode(he)) / tiles * 1e3:.0f} ms a tile of one side")
    for verb in verbs:
        function: Callable[..., Any] = {"count": _count, "build-records": _build, "score": _score}[verb]
        function(out, he, ihc, table, tiles)
    _overhead(out)


def _count(out: Path, he: list[Path], ihc: list[Path], table: Path, tiles: int) -> None:
    def bare() -> None:
        for path in ihc:
            count_slide(CountRequest(SlideRef(path), Marker.KI67, out / "bare" / path.stem), Config(), jobs=1)

    def run(target: Path, jobs: int, scheduler: str | None) -> None:
        common = CountRequest(SlideRef(Path()), Marker.KI67, target)
        requests = collect_requests(ihc, None, common, marker_given=True)
        count_many(requests, CountManyOptions(out=target, config=Config(), jobs=jobs, scheduler=scheduler))

    shutil.rmtree(out / "bare", ignore_errors=True)
    floor = _timed(bare)
    print(f"count, floor (the counting alone): {floor / tiles * 1e3:.0f} ms a tile, {_per_hour(ihc, floor)}")
    _modes("count", out, run, len(ihc), tiles)


def _build(out: Path, he: list[Path], ihc: list[Path], table: Path, tiles: int) -> None:
    importlib.import_module("virtual_stain.records.write")  # TensorFlow, for packing: once, before any is timed

    def run(target: Path, jobs: int, scheduler: str | None) -> None:
        options = BuildOptions(accept_unreviewed=True, jobs=jobs, scheduler=scheduler)
        result = build_records(table, target, Config(), options)
        print(f"  {result.tiles_built} tiles, {result.seconds_per_tile or 0:.3f} processor s a tile in the workers")

    _modes("build-records", out, run, len(he), tiles)


def _score(out: Path, he: list[Path], ihc: list[Path], table: Path, tiles: int) -> None:
    model = str(bundle(out))
    with ProcessPoolExecutor(1, mp_context=_SPAWN) as pool:
        floor = pool.submit(_network, model, he[0]).result()
    print(f"score, floor (the network alone): {floor * 1e3:.0f} ms a tile")
    for name, workers in (("1 process", 0), ("cluster of 1", 1), ("cluster of 2", 2)):
        # a process of its own: TensorFlow divides its threads only once
        with cluster(workers) as address, ProcessPoolExecutor(1, mp_context=_SPAWN) as pool:
            seconds = pool.submit(_score_all, model, he, _fresh(out / "score"), address).result()
        print(f"score, {name}: {seconds:.1f} s, {seconds / tiles * 1e3:.0f} ms a tile, {_per_hour(he, seconds)}")


def _score_all(model: str, he: list[Path], target: Path, scheduler: str | None) -> float:
    inputs = collect_inputs(he, None, out=target, mpp=None)
    return _timed(lambda: score_slides(inputs, ScoreOptions(model=model, jobs=2), scheduler=scheduler))


def _network(model: str, slide: Path) -> float:
    """Seconds a tile of the network, as scoring calls it, after its first call."""
    from concurrent.futures import ThreadPoolExecutor

    from virtual_stain.config import ScoringSettings
    from virtual_stain.scoring.open_model import open_predictor

    predictor = open_predictor(model, ScoringSettings())
    grid, refs = _tiles(slide, predictor.card.tiling)
    with open_slide(SlideRef(slide)) as opened:
        tiles = np.stack([read_window(opened, ref.box, grid.tile_size) for ref in refs[:8]])
    predictor.check(tiles[:2])

    def over() -> None:
        with ThreadPoolExecutor(predictor.in_flight) as pool:
            list(pool.map(lambda i: predictor.predict(tiles[i : i + 1]), range(len(tiles))))

    over()
    return _timed(over) / len(tiles)


def _modes(verb: str, out: Path, run: Callable[[Path, int, str | None], None], slides: int, tiles: int) -> None:
    found = {}
    for name, (jobs, workers) in MODES.items():
        with cluster(workers) as address:
            target = _fresh(out / verb)
            found[name] = _timed(functools.partial(run, target, jobs, address))
        seconds = found[name]
        per_tile, per_hour = seconds / tiles * 1e3, slides / seconds * 3600
        print(f"{verb}, {name}: {seconds:.1f} s, {per_tile:.0f} ms a tile, {per_hour:.0f} slides/h")
    print(
        f"{verb}: two processes are {found['1 process'] / found['2 processes']:.2f} × one, "
        f"the cluster {found['1 process'] / found['cluster of 2']:.2f} ×"
    )
    start, again = _timed(lambda: run(out / verb, 1, None)), found["1 process"]
    print(f"{verb}, all kept: {start:.2f} s beside {again:.1f} s")


def _overhead(out: Path, tasks: int = 200) -> None:
    """Milliseconds that the runner and the cluster add to a slide."""
    found = {}
    for name, workers in (("here", 0), ("cluster", 2)):
        with cluster(workers) as address, open_workers(1, address) as ready:
            folder = _fresh(out / "overhead")
            folder.mkdir()
            work = [Task(f"t{i}", i, ()) for i in range(tasks)]
            _all(work[:8], ready, folder)  # imports
            found[name] = _timed(functools.partial(_all, work, ready, folder)) / tasks
    print(
        f"a slide costs the runner {found['here'] * 1e3:.1f} ms here and {found['cluster'] * 1e3:.1f} ms on a cluster; "
        f"the difference is {(found['cluster'] - found['here']) / (_SLIDE_TILES * 0.26) * 100:.4f} % of counting "
        f"{_SLIDE_TILES} tiles at 0.26 s"
    )


def _all(work: list[Task[int]], workers: Workers, folder: Path) -> None:
    for _ in run_many(work, _nothing, workers, folder):
        pass


def _nothing(_: int) -> Finished:
    return Finished({})


def _tiles(path: Path, tiling: TilingSettings | None = None) -> tuple[TileGrid, tuple[TileRef, ...]]:
    with open_slide(SlideRef(path)) as slide:
        plan = plan_tiles(slide, find_tissue(slide, TissueSettings()), tiling or Config().tiling)
    return plan.grid, plan.tiles


def _decode(paths: list[Path]) -> None:
    for path in paths:
        grid, refs = _tiles(path)
        with open_slide(SlideRef(path)) as slide:
            for ref in refs:
                read_window(slide, ref.box, Size(grid.tile_px, grid.tile_px))


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def _per_hour(slides: list[Path], seconds: float) -> str:
    return f"{len(slides) / seconds * 3600:.0f} slides/h"


def _timed(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start
