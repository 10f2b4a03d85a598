"""Recipes, ways of drawing, heads and label noise compared on one cohort, with a network of four convolutions.

    vstain phantom --out cohort --pairs 27 && vstain build-records cohort/pairs.csv --out records --accept-unreviewed
    python tools/bench/bench_recipes.py recipes records/ work/
    python tools/bench/bench_recipes.py noise records/ work/

Three groups of patients: the first tests, the second trains (a quarter of it chooses the checkpoint), the third has
pre-trained the weights that stand in for ImageNet's. A small network, since the question is what a recipe does, not
how well it can read: a table in half an hour on two cores.
"""

from __future__ import annotations

import dataclasses
import os
import re
import sys
from pathlib import Path

import click

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from virtual_stain.config.training import AugmentSettings

BASE = (
    "model.kind=small_cnn", "model.crop_px=128", "model.batch_norm_momentum=0.9", "training.batch_size=16",
    "training.validation_patients=0.25", "training.validation_tiles=60", "training.patience=0",
)  # fmt: skip
# as in configs/demo.toml: the default augmentation is made for weeks, a run of minutes learns next to nothing under it
LEFT_OUT = ("hematoxylin_gain", "eosin_gain", "brightness", "contrast", "blur_px")
MILD = tuple(f"augment.{name}=0" for name in LEFT_OUT)
DEFAULT_AUGMENTATION = tuple(f"augment.{name}={getattr(AugmentSettings(), name)}" for name in LEFT_OUT)
SCRATCH = ("training.recipe=scratch", "training.learning_rate=1e-3")
INCEPTION = ("training.recipe=inception", "training.learning_rate=0.01")
RECIPES = {
    "scratch (Adam, cosine)": ("none", SCRATCH),
    "scratch, default augmentation": ("none", (*SCRATCH, *DEFAULT_AUGMENTATION)),
    "scratch, with replacement": ("none", (*SCRATCH, "training.sampling=with_replacement")),
    "scratch, balanced by ratio": ("none", (*SCRATCH, "training.balance=ratio")),
    "scratch, dense head": ("none", (*SCRATCH, "model.head=dense")),
    "inception": ("none", INCEPTION),
    "inception, auxiliary head": ("none", (*INCEPTION, "model.auxiliary_head=true")),
    "inception, pre-trained": ("pre-trained", INCEPTION),
    "the trap: Keras' epsilon 1e-7, pre-trained": ("pre-trained", (*INCEPTION, "training.epsilon=1e-7")),
    "finetune, pre-trained": (
        "pre-trained",
        ("training.recipe=finetune", "training.head_steps=100", "training.learning_rate=3e-4"),
    ),
    "svr on pre-trained features": ("pre-trained", ("model.head=svr", "model.svr_crops=2500")),
}


@click.group()
def main() -> None:
    """See the top of the file."""


@main.command()
@click.argument("records", type=click.Path(path_type=Path, exists=True))
@click.argument("work", type=click.Path(path_type=Path))
@click.option("--steps", default=600, show_default=True)
@click.option("--only", default="", help="Only recipes whose name holds this.")
def recipes(records: Path, work: Path, steps: int, only: str) -> None:
    """A line a recipe."""
    from virtual_stain.dataset.folds import FoldPlan, plan_folds
    from virtual_stain.records.manifest import read_manifest
    from virtual_stain.training.run_dir import load_run

    group = plan_folds(read_manifest(records), 3).folds
    third = part_of(records, work / "records-third", {p for p, g in group.items() if g == 2})
    others = part_of(records, work / "records-others", {p for p, g in group.items() if g != 2})
    weights = work / "pre-trained.weights.h5"
    if not weights.is_file():
        # one patient is left to test on, since somebody must be; nobody looks at the figure
        last = max(p for p, g in group.items() if g == 2)
        plan = FoldPlan(3, {p: int(p != last) for p, g in group.items() if g == 2}, False)
        train(third, work / "pre-trained", plan, ("model.weights=none", *SCRATCH), steps)
        load_run(work / "pre-trained").network.model.get_layer("small_cnn").save_weights(weights)
    plan = FoldPlan(3, {p: g for p, g in group.items() if g != 2}, False)
    for name, (start, overrides) in RECIPES.items():
        if only not in name:
            continue
        file = "none" if start == "none" else str(weights)
        folder = work / re.sub("[^a-z0-9]+", "-", name.lower())
        report(name, train(others, folder, plan, (f"model.weights={file}", *overrides), steps))


def part_of(records: Path, out: Path, patients: set[str]) -> Path:
    """A folder with the records of some patients: links to the shards, and a manifest of its own."""
    from virtual_stain.records.manifest import read_manifest, write_manifest

    manifest = read_manifest(records)
    pairs = tuple(p for p in manifest.pairs if p.patient_id in patients)
    out.mkdir(parents=True, exist_ok=True)
    for pair in pairs:
        for shard in pair.shards:
            link = out / shard.file
            link.unlink(missing_ok=True)
            link.symlink_to((records / shard.file).resolve())
    write_manifest(out, dataclasses.replace(manifest, pairs=pairs))
    return out


@main.command()
@click.argument("records", type=click.Path(path_type=Path, exists=True))
@click.argument("work", type=click.Path(path_type=Path))
@click.option("--steps", default=600, show_default=True)
@click.option("--seeds", default=2, show_default=True, help="Directions of the shift; the mean is over them.")
def noise(records: Path, work: Path, steps: int, seeds: int) -> None:
    """A line a registration error."""
    from tools.shift_labels import shift_labels
    from virtual_stain.dataset.folds import plan_folds
    from virtual_stain.records.manifest import read_manifest

    for um in (0, 25, 60, 100):
        for seed in range(seeds):
            folder = work / f"shifted-{um}-{seed}"
            if not (folder / "manifest.json").is_file():
                shift_labels(records, folder, um, folds=3, seed=seed)
            plan = plan_folds(read_manifest(folder), 3)
            found = train(
                folder,
                work / f"run-shifted-{um}-{seed}",
                plan,
                ("model.weights=none", *SCRATCH, f"training.seed={seed}"),
                steps,
            )
            report(f"{um} µm, direction {seed}", found)


def train(records: Path, out: Path, plan, overrides: tuple[str, ...], steps: int):
    """Trains and evaluates on fold 0 of `plan`; returns (tiles, best step)."""
    from virtual_stain.config import load_config
    from virtual_stain.errors import ModelError
    from virtual_stain.evaluation.evaluate import evaluate
    from virtual_stain.training.fit import fit

    every = max(1, steps // 4)
    config = load_config(
        None, (*BASE, *MILD, f"training.max_steps={steps}", f"training.validate_every_steps={every}", *overrides)
    )
    try:
        result = fit(records, out, config, fold=0, plan=plan, force=True)
    except ModelError as error:
        return error.message
    return evaluate(out, resamples=10).tiles, result


def report(name: str, found) -> None:
    """Prints figures over the tiles of the test fold."""
    from virtual_stain.training.metrics import mean_absolute_error, mean_within, pearson

    if isinstance(found, str):
        print(f"{name:45} stopped: {found[:100]}", flush=True)
        return
    tiles, result = found
    tiles = tiles.select(tiles.labelled)
    within = mean_within(tiles.patient, tiles.truth, tiles.value, pearson)
    pooled, mae = pearson(tiles.truth, tiles.value), mean_absolute_error(tiles.truth, tiles.value)
    shown = ["–" if v is None else f"{v:.2f}" for v in (within, pooled)]
    print(
        f"{name:45} r within {shown[0]}, pooled {shown[1]}, error {100 * (mae or float('nan')):.1f} points, "
        f"validation loss {result.best_validation_loss:.4f}, step {result.best_step}",
        flush=True,
    )


if __name__ == "__main__":
    main()
