"""A cross-validated phantom cohort beside what the true nuclei can tell: tiles, slides, interval, permuted labels.

    vstain phantom --out cohort --pairs 27 --seed 23
    vstain build-records cohort/pairs.csv --out records --accept-unreviewed --config configs/demo.toml
    vstain fit records --out cv --cv 3 --config configs/demo.toml --set training.validation_patients=0.2
    vstain evaluate cv && python tools/bench/bench_cohort.py cohort records cv

The yardstick is a ridge regression on the true statistics of a tile's nuclei, fitted and read on the same tiles, labels
and folds as the network; no reader of pixels can know more than the nuclei hold.
"""

from __future__ import annotations

import csv
import json
import os
import sys
from pathlib import Path

import click

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


@click.command()
@click.argument("cohort", type=click.Path(path_type=Path, exists=True))
@click.argument("records", type=click.Path(path_type=Path, exists=True))
@click.argument("cv", type=click.Path(path_type=Path, exists=True))
@click.option("--refits", default=20, show_default=True, help="Permuted refits of the head of fold 0; 0: none.")
def main(cohort: Path, records: Path, cv: Path, refits: int) -> None:
    """Prints the network's figures and the yardstick's."""
    value = json.loads((cv / "evaluation.json").read_text())
    (marker,) = value["markers"]
    figures = value["markers"][marker]
    within, pooled = yardstick(cohort, cv)
    tiles, slides = figures["tiles"], figures["slide_agreement"]
    network = tiles["pearson_within_patient"], tiles["pearson_pooled"]
    print(f"{tiles['n_patients']} patients, {tiles['n_labelled']} labelled tiles, {len(value['runs'])} folds")
    for name, ours, best in (("mean within a patient", network[0], within), ("pooled", network[1], pooled)):
        print(f"tile r, {name:22} network {ours:.3f}, ridge on the true nuclei {best:.3f}: {ours / best:.2f} of it")
    spans = [shown(slides["intervals"][name], scale) for name, scale in (("mae", 100), ("pearson", 1))]
    print(f"tile error {100 * tiles['mae']:.1f} points; slides: error {100 * slides['mae']:.1f} points {spans[0]}, "
          f"r {slides['pearson']:.2f} {spans[1]}, ICC(2,1) {slides['icc_2_1']:.2f}, "
          f"bias {100 * slides['bias']:+.1f} points")  # fmt: skip
    print(f"interval: {figures['interval']['reason'] or 'available'}; left out one by one: {figures['interval_check']}")
    if refits:
        from virtual_stain.evaluation.permutation import permutation_check
        from virtual_stain.training.run_dir import load_run

        check = permutation_check(load_run(cv / "fold-0"), records, refits)
        print(f"permuted labels, {refits} refits of the head: mean r {check.mean_r:+.3f}; "
              f"with the labels in place {check.true_labels_r:.3f}")  # fmt: skip


def shown(interval: list[float] | None, scale: float = 1.0) -> str:
    """(low to high)."""
    return "" if interval is None else f"({scale * interval[0]:.2f} to {scale * interval[1]:.2f})"


def yardstick(cohort: Path, cv: Path) -> tuple[float, float]:
    """(mean r within a patient, pooled r) of the ridge regression over all folds."""
    import numpy as np

    from virtual_stain.evaluation.statistics import pearson
    from virtual_stain.phantom.truth import read_truth

    with (cv / "predictions.csv").open(newline="", encoding="utf-8") as stream:
        rows = [r for r in csv.DictReader(stream) if float(r["label_weight"]) > 0]
    data: dict[str, list[tuple[np.ndarray, float]]] = {}
    for pair in sorted({r["pair"] for r in rows}):
        table = read_truth(cohort, pair).tiles
        place = {(int(c), int(r)): i for i, (c, r) in enumerate(zip(table.col, table.row, strict=True))}
        statistics = table.statistics()
        for row in rows:
            index = place.get((int(row["col"]), int(row["row"]))) if row["pair"] == pair else None
            if index is not None and np.isfinite(statistics[index]).all():
                data.setdefault(row["patient_id"], []).append((statistics[index], float(row["label_ratio"])))
    read: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for run in sorted(cv.glob("fold-*")):
        sides = json.loads((run / "run.json").read_text())["data"]["patients"]
        x, y = columns([t for p in sides["train"] for t in data.get(p, [])])
        mean, sd = x.mean(axis=0), np.maximum(x.std(axis=0), 1e-12)
        z = (x - mean) / sd
        weights = np.linalg.solve(z.T @ z + 3.0 * np.eye(z.shape[1]), z.T @ (y - y.mean()))
        for patient in sides["test"]:
            x_new, y_new = columns(data[patient])
            read[patient] = (((x_new - mean) / sd) @ weights + y.mean(), y_new)
    within = [pearson(y, p) for p, y in read.values()]
    joined = [np.concatenate(c) for c in zip(*read.values(), strict=True)]
    return float(np.mean([w for w in within if w is not None])), float(pearson(joined[1], joined[0]) or np.nan)


def columns(tiles):
    """[(statistics, ratio), …] → float64[N, K], float64[N]."""
    import numpy as np

    return np.array([t[0] for t in tiles]), np.array([t[1] for t in tiles])


if __name__ == "__main__":
    main()
