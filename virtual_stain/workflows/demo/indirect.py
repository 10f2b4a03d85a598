"""The second way of the demo (`vstain demo --indirect`): a generator, virtual slides, and the counter on them."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from virtual_stain.config import Config, load_config
from virtual_stain.files import read_json
from virtual_stain.phantom.truth import read_truth
from virtual_stain.progress import Progress
from virtual_stain.workflows.demo.truth_checks import PredictionCheck, check_predictions, read_predictions

_REFITS = 20
GOAL_R, GOAL_OF_DIRECT, GOAL_OF_EXPECTED, GOAL_BIAS, GOAL_FOUND = 0.65, 0.9, 0.85, 0.02, 0.9


@dataclass(frozen=True, slots=True)
class IndirectSlide:
    """A held-out slide, fractions."""

    pair: str
    counted: float | None
    expected: float | None
    true_global_ratio: float
    found_share: float
    """Tumour nuclei that the counter found in the picture, of those that the generator expects."""
    flags: tuple[str, ...]
    picture: str
    """Path of the virtual slide."""


@dataclass(frozen=True, slots=True)
class IndirectCheck:
    """What `vstain demo` says of the indirect path."""

    expected: PredictionCheck
    """Of `vstain evaluate`, with the truth."""
    counted_r: float
    """`counted` with the truth, mean over the held-out patients."""
    expected_r: float
    """`expected` on the same tiles, read with their surroundings."""
    direct_r: float
    """Of the direct run of this demo."""
    counted_less_expected: float
    """Mean over the tiles."""
    permuted_r: float
    slides: tuple[IndirectSlide, ...] = field(default=())


def indirect_config(tiling_of: Config) -> Config:
    """The packaged configuration, with the tiles of the demo's records."""
    with resources.as_file(resources.files("virtual_stain.workflows.demo") / "demo_indirect.toml") as path:
        return dataclasses.replace(load_config(path), tiling=tiling_of.tiling, labels=tiling_of.labels)


def run_indirect(
    out: Path, config: Config, held_out: Sequence[str], fold: int, direct_r: float, jobs: int, progress: Progress
) -> IndirectCheck:
    """Trains, evaluates, exports and scores below `out`/indirect; finished stages are not done again.

    `config`: of the demo; `held_out`: names of the pairs of `fold`. Raises what the stages raise.
    """
    from virtual_stain.evaluation.evaluate import evaluate
    from virtual_stain.evaluation.permutation import permutation_check
    from virtual_stain.exporting.bundle import versions
    from virtual_stain.exporting.saved_model import export_run
    from virtual_stain.training.fit import fit
    from virtual_stain.training.run_dir import load_run

    cohort, records = out / "cohort", out / "records"
    run, model = out / "indirect" / "run", out / "indirect" / "model"
    run.parent.mkdir(exist_ok=True)
    fit(records, run, indirect_config(config), fold=fold, resume=True, progress=progress)
    evaluate(run, progress=progress)
    expected = check_predictions(cohort, read_predictions(run / "predictions.csv"))
    permuted = permutation_check(load_run(run), records, _REFITS)
    best = (run / "best.h5").stat().st_mtime
    if not any((model / str(v) / "bundle.json").stat().st_mtime > best for v in versions(model)):
        export_run(run, model, name="ki67-demo-indirect", progress=progress)
    reports = _score(out, model, config, held_out, jobs, progress)
    read = {name: _columns(Path(f"{report}.tiles.csv")) for name, report in reports.items()}
    counted, plain = ({pair: columns[n] for pair, columns in read.items()} for n in ("counted", "expected"))
    differences = [c - plain[pair][at] for pair in read for at, c in counted[pair].items()]
    return IndirectCheck(
        expected=expected,
        counted_r=check_predictions(cohort, counted).within_r,
        expected_r=check_predictions(cohort, plain).within_r,
        direct_r=direct_r,
        counted_less_expected=float(np.mean(differences)),
        permuted_r=permuted.mean_r,
        slides=tuple(_slide(cohort, name, report) for name, report in reports.items()),
    )


def _score(
    out: Path, model: Path, config: Config, held_out: Sequence[str], jobs: int, progress: Progress
) -> dict[str, Path]:
    """Pair → the beginning of its report's names."""
    from virtual_stain.scoring.inputs import collect_inputs
    from virtual_stain.workflows.score_many import score_slides
    from virtual_stain.workflows.score_slides import ScoreOptions
    from virtual_stain.workflows.score_virtual import VirtualSlides

    slides = [out / "cohort" / "slides" / f"{name}_he.tiff" for name in held_out]
    folder = out / "indirect" / "scores"
    options = ScoreOptions(
        model=str(model),
        scoring=config.scoring,
        tissue=config.tissue,
        jobs=jobs,
        addition=VirtualSlides(config.counting),
    )
    score_slides(collect_inputs(slides, None, out=folder, mpp=None), options, progress=progress)
    return {name: folder / slide.stem for name, slide in zip(held_out, slides, strict=True)}


def _columns(path: Path) -> dict[str, dict[tuple[int, int], float]]:
    """ "counted", "expected" → (col, row) → ratio of the tiles that were drawn."""
    found: dict[str, dict[tuple[int, int], float]] = {"counted": {}, "expected": {}}
    with path.open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            if row["ki67_counted"] and row["ki67_expected"]:
                for name, values in found.items():
                    values[int(row["col"]), int(row["row"])] = float(row[f"ki67_{name}"])
    return found


def _slide(cohort: Path, pair: str, stem: Path) -> IndirectSlide:
    report: dict[str, Any] = read_json(Path(f"{stem}.report.json"), "a report")
    virtual = report["virtual"]
    return IndirectSlide(
        pair=pair,
        counted=virtual["counted"],
        expected=virtual["expected"],
        true_global_ratio=read_truth(cohort, pair).summary["global_ratio"],
        found_share=virtual["counted_tumour_cells"] / max(virtual["expected_tumour_cells"], 1e-9),
        flags=tuple(virtual["flags"]),
        picture=str(stem.with_name(virtual["file"])),
    )


def indirect_lines(check: IndirectCheck) -> list[str]:
    """For the demo's summary: what was reached beside the goal."""
    goal = max(GOAL_R, GOAL_OF_DIRECT * check.direct_r)
    lines = [
        "The indirect path: a virtual IHC slide, read by the counter (the same held-out patients)",
        f"  expected       r within patient {check.expected.within_r:.3f} (goal ≥ {goal:.2f}; the direct model "
        f"{check.direct_r:.3f}); mean absolute error {100 * check.expected.mae:.1f} points, "
        f"{check.expected.n_tiles} tiles",
        f"  counted        r within patient {check.counted_r:.3f} (goal ≥ {GOAL_OF_EXPECTED * check.expected_r:.2f}); "
        f"less expected {100 * check.counted_less_expected:+.1f} points (goal within ±{100 * GOAL_BIAS:g})",
        f"  labels permuted, head refitted {_REFITS} times   {check.permuted_r:+.3f} (goal within ±0.1)",
    ]
    for slide in check.slides:
        counted, expected = ("none" if v is None else f"{100 * v:.1f} %" for v in (slide.counted, slide.expected))
        lines.append(
            f"  {slide.pair}: counted {counted}, expected {expected}, true {100 * slide.true_global_ratio:.1f} %; "
            f"{slide.found_share:.0%} of the expected nuclei found (goal ≥ {GOAL_FOUND:.0%})"
            + (f" [{', '.join(slide.flags)}]" if slide.flags else "")
        )
    lines += [f"  {slide.picture}   virtual slide of {slide.pair}: a prediction, not a stain" for slide in check.slides]
    return lines
