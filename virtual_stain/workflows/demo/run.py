"""`vstain demo`: the whole way on phantoms, through the same functions as the other commands, each beside the truth."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from virtual_stain.config import Config
from virtual_stain.errors import OutputError
from virtual_stain.files import folder_lock, make_folder, read_json
from virtual_stain.markers import parse_marker
from virtual_stain.memory import PeakMemory, release_memory
from virtual_stain.phantom.ceiling import ridge_ceiling, slide_ratio
from virtual_stain.phantom.cohort import write_cohort
from virtual_stain.phantom.truth import read_truth
from virtual_stain.progress import Progress
from virtual_stain.provenance import RunRecord, refuse_foreign_run
from virtual_stain.slides.slide import SlideRef
from virtual_stain.workflows.count_slide import CountRequest, count_slide
from virtual_stain.workflows.demo.indirect import IndirectCheck, run_indirect
from virtual_stain.workflows.demo.plan import HELD_OUT_FOLD, DemoPlan, pair_names, write_folds
from virtual_stain.workflows.demo.truth_checks import (
    CountingCheck,
    PredictionCheck,
    RegistrationCheck,
    TileRatioCheck,
    check_counting,
    check_predictions,
    check_registration,
    check_tile_ratios,
    read_cells,
    read_predictions,
)

N_REFITS = 20
_FOLDERS = ("cohort", "records", "counts", "run", "model", "scores", "indirect")


@dataclass(frozen=True, slots=True)
class ReadingCheck:
    """One held-out slide: report beside truth, fractions."""

    pair: str
    global_ratio: float | None
    true_global_ratio: float
    top_mean: float | None
    true_top_mean: float
    """Mean of the 30 largest realised tile ratios."""
    true_top_field_mean: float
    """The same of the noise-free field."""
    report: str
    """Path of the HTML report."""
    ridge_global_ratio: float | None = None
    """What the regression on the true nuclei reads: its error is what nobody can know from the H&E slide."""


@dataclass(slots=True)
class DemoResult:
    """Everything that the summary prints."""

    plan: str
    out: Path
    seconds: dict[str, float] = field(default_factory=dict)
    """Per stage; a stage that found its work done takes next to none."""
    registration: list[RegistrationCheck] = field(default_factory=list)
    counting: list[CountingCheck] = field(default_factory=list)
    tile_ratios: TileRatioCheck | None = None
    prediction: PredictionCheck | None = None
    ceiling_within_r: float = float("nan")
    ceiling_pooled_r: float = float("nan")
    ridge_global_ratios: dict[str, float] = field(default_factory=dict)
    """Held-out pair → what the same regression reads for its slide, fraction."""
    permuted_r: float = float("nan")
    """Mean over the refits of the head on permuted labels."""
    unpermuted_r: float | None = None
    readings: list[ReadingCheck] = field(default_factory=list)
    indirect: IndirectCheck | None = None
    """Where the plan has the indirect path."""
    peak_gb: float = 0.0


@dataclass(frozen=True, slots=True)
class _Demo:
    """Places and tools of one demo."""

    plan: DemoPlan
    out: Path
    config: Config
    jobs: int
    progress: Progress
    result: DemoResult

    @property
    def cohort(self) -> Path:
        return self.out / "cohort"

    @property
    def records(self) -> Path:
        return self.out / "records"

    @property
    def run(self) -> Path:
        return self.out / "run"

    @property
    def model(self) -> Path:
        return self.out / "model"

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self.progress.say(f"── {name}")
        start = time.monotonic()
        yield
        self.result.seconds[name] = time.monotonic() - start

    def held_out(self) -> list[str]:
        names = pair_names(self.cohort / "pairs.csv")
        return [n for i, n in enumerate(names) if self.plan.fold(i) == HELD_OUT_FOLD]


def run_demo(out: Path, plan: DemoPlan, *, jobs: int, force: bool = False, progress: Progress) -> DemoResult:
    """Runs every stage below `out`, checks each against the truth; finished stages are not done again.

    `force`: begins anew in a folder of an earlier demo. Raises OutputError for a folder of another plan or command,
    and what the stages raise; nothing is caught here.
    """
    make_folder(out)
    with folder_lock(out):
        _claim(out, plan, force=force)
        demo = _Demo(plan, out, plan.load_config(), jobs, progress, DemoResult(plan.name, out))
        stages: list[tuple[str, Callable[[_Demo], None]]] = [
            ("phantoms", _phantoms),
            ("records: register, tile, count, label, pack", _records),
            ("registration and labels against the truth", _check_labels),
            ("counting against the truth", _check_counting),
            ("training", _fit),
            ("evaluation on held-out patients, permuted labels", _evaluate),
            ("export", _export),
            ("scoring the held-out slides", _score),
        ]
        if plan.indirect:
            stages.append(("the indirect path: train, evaluate, export, draw and count", _indirect))
        with PeakMemory() as peak:
            for name, function in stages:
                with demo.stage(name):
                    function(demo)
                release_memory()  # one process does what are eight commands
        demo.result.peak_gb = round(peak.gb, 2)
    return demo.result


def _claim(out: Path, plan: DemoPlan, *, force: bool) -> None:
    """Leaves run.json with the plan; refuses another plan's folder before any work, or empties it (`force`)."""
    refuse_foreign_run(out, "demo")
    known = read_json(out / "run.json", "the record of a demo") if (out / "run.json").exists() else None
    if known is not None and known.get("plan") != plan.name and not force:
        raise OutputError(
            f"{out}: holds the demo {known.get('plan')!r}; this is {plan.name!r}.",
            hint="Choose another --out, or --force to begin anew.",
        )
    if force:
        for name in _FOLDERS:
            shutil.rmtree(out / name, ignore_errors=True)
    RunRecord("demo", config=plan.load_config().to_dict(), extra={"plan": plan.name}).write(out, tensorflow=True)


def _phantoms(demo: _Demo) -> None:
    pairs = write_cohort(demo.cohort, demo.plan.phantom, jobs=demo.jobs, progress=demo.progress)
    write_folds(pairs, demo.plan)


def _records(demo: _Demo) -> None:
    from virtual_stain.workflows.build_records import BuildOptions, build_records

    build_records(
        demo.cohort / "pairs-with-folds.csv",
        demo.records,
        demo.config,
        BuildOptions(accept_unreviewed=True, jobs=demo.jobs),
        progress=demo.progress,
    )


def _check_labels(demo: _Demo) -> None:
    names = pair_names(demo.cohort / "pairs.csv")
    demo.result.registration = [check_registration(demo.cohort, demo.records, n) for n in names]
    demo.result.tile_ratios = check_tile_ratios(demo.cohort, demo.records, names)


def _check_counting(demo: _Demo) -> None:
    for name in demo.held_out():
        slide = SlideRef(demo.cohort / "slides" / f"{name}_ihc.tiff")
        request = CountRequest(slide, parse_marker(demo.plan.phantom.marker), demo.out / "counts" / name)
        count_slide(request, demo.config, jobs=demo.jobs, force=True, progress=demo.progress)
        demo.result.counting.append(check_counting(read_truth(demo.cohort, name), read_cells(request.out)))


def _fit(demo: _Demo) -> None:
    from virtual_stain.training.fit import fit

    fit(demo.records, demo.run, demo.config, fold=HELD_OUT_FOLD, resume=True, progress=demo.progress)


def _evaluate(demo: _Demo) -> None:
    from virtual_stain.evaluation.evaluate import evaluate
    from virtual_stain.evaluation.permutation import permutation_check
    from virtual_stain.training.run_dir import load_run

    evaluate(demo.run, progress=demo.progress)
    result = demo.result
    result.prediction = check_predictions(demo.cohort, read_predictions(demo.run / "predictions.csv"))
    held_out = demo.held_out()
    training = [n for i, n in enumerate(pair_names(demo.cohort / "pairs.csv")) if demo.plan.fold(i) > HELD_OUT_FOLD + 1]
    tables = [[read_truth(demo.cohort, n).tiles for n in names] for names in (training, held_out)]
    ceiling = ridge_ceiling(*tables)
    result.ridge_global_ratios = {
        name: slide_ratio(table, predicted)
        for name, table, predicted in zip(held_out, tables[1], ceiling.predicted, strict=True)
    }
    result.ceiling_within_r, result.ceiling_pooled_r = ceiling.within_patient_r, ceiling.pooled_r
    check = permutation_check(load_run(demo.run), demo.records, N_REFITS)
    result.permuted_r, result.unpermuted_r = check.mean_r, check.true_labels_r


def _export(demo: _Demo) -> None:
    from virtual_stain.exporting.bundle import versions
    from virtual_stain.exporting.saved_model import export_run

    best = demo.run / "best.h5"
    made = [demo.model / str(v) / "bundle.json" for v in versions(demo.model)]
    if not any(path.stat().st_mtime > best.stat().st_mtime for path in made):
        export_run(demo.run, demo.model, name="ki67-demo", progress=demo.progress)


def _score(demo: _Demo) -> None:
    from virtual_stain.scoring.inputs import collect_inputs
    from virtual_stain.workflows.score_many import score_slides
    from virtual_stain.workflows.score_slides import ScoreOptions

    slides = [demo.cohort / "slides" / f"{name}_he.tiff" for name in demo.held_out()]
    inputs = collect_inputs(slides, None, out=demo.out / "scores", mpp=None)
    options = ScoreOptions(
        model=str(demo.model), scoring=demo.config.scoring, tissue=demo.config.tissue, jobs=demo.jobs
    )
    score_slides(inputs, options, progress=demo.progress)
    for name, slide in zip(demo.held_out(), slides, strict=True):
        demo.result.readings.append(_reading(demo, name, slide))


def _indirect(demo: _Demo) -> None:
    direct = demo.result.prediction
    demo.result.indirect = run_indirect(
        demo.out,
        demo.config,
        demo.held_out(),
        HELD_OUT_FOLD,
        float("nan") if direct is None else direct.within_r,
        demo.jobs,
        demo.progress,
    )


def _reading(demo: _Demo, pair: str, slide: Path) -> ReadingCheck:
    stem = demo.out / "scores" / slide.stem
    report: dict[str, Any] = read_json(Path(f"{stem}.report.json"), "a report")
    reading = report["readings"][demo.plan.phantom.marker]
    truth = read_truth(demo.cohort, pair).summary
    return ReadingCheck(
        pair=pair,
        global_ratio=reading["global_ratio"],
        true_global_ratio=truth["global_ratio"],
        top_mean=reading["top_mean"],
        true_top_mean=truth["top30_ratio"],
        true_top_field_mean=truth["top30_field_ratio"],
        report=f"{stem}.report.html",
        ridge_global_ratio=demo.result.ridge_global_ratios.get(pair),
    )
