"""Pre-trained against random weights at equal steps, and support vectors on early features.

    python tools/bench/truth_records.py records --seed 12
    python tools/bench/truth_records.py test --seed 12 --first 10 --pairs 6
    python tools/bench/truth_records.py other --seed 77 --other-tissue
    python tools/bench/bench_starts.py records test other work/ [--steps 150] [--ends mixed0,mixed2]

ImageNet's weights cannot be had everywhere. A stand-in is pre-trained on phantoms of other tissue: larger nuclei that
grow less where cells proliferate, smaller nests, wider hot spots, more positive cells. `finetune` keeps normalisation
fixed and is therefore refused from random weights; `scratch` stands beside it. Every run may be resumed.
"""

from __future__ import annotations

import csv
import os
import re
import sys
import time
from pathlib import Path

import click

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

DEMO = Path(__file__).resolve().parents[2] / "configs" / "demo.toml"
SCRATCH = ("training.recipe=scratch", "training.learning_rate=1e-3")
INCEPTION = ("training.recipe=inception", "training.learning_rate=0.01")
FINETUNE = ("training.recipe=finetune", "training.learning_rate=1e-3", "training.head_steps=30")
SUPPORT = ("model.head=svr", "model.svr_crops=1200")
WAYS = (
    ("scratch", False, SCRATCH),
    ("scratch", True, SCRATCH),
    ("inception", False, INCEPTION),
    ("inception", True, INCEPTION),
    ("finetune", True, FINETUNE),
    ("svr on frozen features", False, SUPPORT),
    ("svr on frozen features", True, SUPPORT),
)


@click.command()
@click.argument("records", type=click.Path(path_type=Path, exists=True))
@click.argument("test", type=click.Path(path_type=Path, exists=True))
@click.argument("other", type=click.Path(path_type=Path, exists=True))
@click.argument("work", type=click.Path(path_type=Path))
@click.option("--steps", default=150, show_default=True)
@click.option("--ends", default="mixed0,mixed2", show_default=True)
@click.option("--only", default="", help="Only ways whose line holds this.")
def main(records: Path, test: Path, other: Path, work: Path, steps: int, ends: str, only: str) -> None:
    """A line a way."""
    for end in ends.split(","):
        weights = stand_in(other, work, end, 2 * steps, ends.split(",")[-1])
        for name, pre_trained, overrides in WAYS:
            line = f"{end}, {name}, {'pre-trained' if pre_trained else 'random'}"
            if only not in line:
                continue
            # "svr" needs no steps, but it does need a file or none
            start = f"model.weights={weights if pre_trained else 'none'}"
            report(line, records, work / re.sub("[^a-z0-9]+", "-", line), test, end, steps, (start, *overrides))


def stand_in(other: Path, work: Path, end: str, steps: int, deepest: str) -> Path:
    """Weights of the trunk up to `end`, cut from one network that was trained up to `deepest` on other tissue."""
    from virtual_stain.config.training import ModelSettings
    from virtual_stain.model.trunk import trunk_of
    from virtual_stain.training.run_dir import load_run

    path = work / f"stand-in-{end}.weights.h5"
    if not path.is_file():
        run(other, work / "stand-in", deepest, steps, ("model.weights=none", *SCRATCH))
        trunk = load_run(work / "stand-in").network.model.get_layer("inception_v3")
        if end != deepest:
            trunk = trunk_of(trunk, ModelSettings(crop_px=128, trunk_end=end))
        trunk.save_weights(path)
    return path


def run(records: Path, out: Path, end: str, steps: int, overrides: tuple[str, ...]):
    """Trains `configs/demo.toml` so changed; a finished run is taken as it is."""
    from virtual_stain.config import load_config
    from virtual_stain.training.fit import fit

    every = max(1, steps // 3)
    config = load_config(
        DEMO,
        (f"model.trunk_end={end}", f"training.max_steps={steps}", f"training.validate_every_steps={every}", *overrides),
    )
    return fit(records, out, config, fold=0, resume=True)


def report(line: str, records: Path, out: Path, test: Path, end: str, steps: int, overrides: tuple[str, ...]) -> None:
    """Trains, reads the patients of `test`, and prints the figures."""
    from tools.bench.bench_labs import read_lab, sentence
    from virtual_stain.training.run_dir import load_run

    began = time.process_time()
    run(records, out, end, steps, overrides)
    seconds = time.process_time() - began
    with (out / "history.csv").open(newline="", encoding="utf-8") as stream:
        course = [
            f"{float(row['validation_tile_r'] or 'nan'):.2f}"
            for row in csv.DictReader(stream)
            if row["validation_loss"]
        ]
    found = read_lab(load_run(out), test)
    seen = " ".join(course)
    print(f"{line:40} {sentence(found, found)}; r on the validating patient {seen}; {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
