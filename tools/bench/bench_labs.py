"""What another laboratory's slides cost: the same sections read as one lab and as others would show them.

    python tools/bench/truth_records.py records --seed 12
    vstain fit records --out run --config configs/demo.toml
    for lab in "" tinted sky_blue broad grey_blue violet clusters vesicular; do
      python tools/bench/truth_records.py labs/${lab:-usual} --seed 12 --first 10 --pairs 6 --lab "$lab"
    done
    python tools/bench/bench_labs.py run labs/usual labs/tinted labs/sky_blue …
    python tools/bench/normalised_records.py labs/tinted labs/tinted-macenko --like records --by macenko

Every folder holds the same patients and the same labels, so a difference is the lab's alone. A line a lab: r within a
patient and what of it is lost, the error of the slides, the shift of a slide's reading against the first folder, and
how many slides the model's training range flags as outside.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path

import click

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


@click.command()
@click.argument("run", type=click.Path(path_type=Path, exists=True))
@click.argument("records", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
def main(run: Path, records: tuple[Path, ...]) -> None:
    """See the top of the file; the first folder of RECORDS is the lab that the run was trained on."""
    from virtual_stain.training.run_dir import load_run

    trained = load_run(run)
    usual = None
    for folder in records:
        found = read_lab(trained, folder)
        usual = usual or found
        print(f"{folder.name:22} {sentence(found, usual)}", flush=True)


def read_lab(run, records: Path) -> dict:
    """The tiles that carry a reading and a label, and their figures.

    {"tiles", "r": per patient, "pooled", "slides": [(read, true) …], "flags": Counter of quantities, "flagged": slides}
    """
    from virtual_stain.appearance import outside_training
    from virtual_stain.evaluation.predict import predict_tiles
    from virtual_stain.evaluation.slide_figures import ReadingRule, slide_figures, used_tiles
    from virtual_stain.records.manifest import read_manifest
    from virtual_stain.training.metrics import pearson
    from virtual_stain.training.training_range import recorded_appearance

    pairs = read_manifest(records).pairs
    tiles = predict_tiles(run, records, pairs)
    limits = run.card["thresholds"]
    rule = ReadingRule(limits["min_tissue_fraction"], limits["min_tumour_cells"], top_n=30)
    slides = slide_figures(tiles, rule)
    tiles = tiles.select(tiles.labelled & used_tiles(tiles, rule))
    each = [tiles.select(tiles.pair == slide.pair) for slide in slides]
    quantities, flagged = Counter(), 0
    for pair in pairs:
        found = outside_training(run.data["training_range"], recorded_appearance(records, pair))
        quantities.update(deviation.quantity for deviation in found)
        flagged += bool(found)
    return {
        "tiles": tiles,
        "r": [pearson(t.truth, t.value) for t in each],
        "pooled": pearson(tiles.truth, tiles.value),
        "slides": [(slide.read_global_ratio, slide.true_ratio) for slide in slides],
        "flags": quantities,
        "flagged": flagged,
    }


def sentence(found: dict, usual: dict) -> str:
    """The figures of a lab in words."""
    import numpy as np

    r, before = np.array(found["r"], float), np.array(usual["r"], float)
    (read, true), (first, _) = np.array(found["slides"], float).T, np.array(usual["slides"], float).T
    shift = 100 * (read - first)
    why = ", ".join(f"{name} {n}" for name, n in found["flags"].most_common())
    return (
        f"r within {r.mean():.3f} (lowest {r.min():.2f}), change {(r - before).mean():+.3f}; "
        f"pooled {found['pooled']:.3f}; "
        f"slides: error {100 * np.abs(read - true).mean():.1f} points, shift {shift.mean():+.1f} "
        f"({shift.min():+.1f} to {shift.max():+.1f}); flagged {found['flagged']} of {len(r)} {why}"
    )


if __name__ == "__main__":
    main()
