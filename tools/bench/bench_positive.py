"""Where counting puts the cut-off of positive, and where it should: one row a set of pictures.

    python tools/bench/bench_positive.py REALDATA --work FOLDER [--each] [--held-out] [--parts]

The sets are the phantom labs (`vstain phantom --lab`), the masked tiles of `deepliif`, and one region on two scanners
(no truth: only its cut-offs and shares). All with the default settings. Columns:

F1          detection, all nuclei, mean over the fields; "ves." the share of the true nuclei that were found
ratio       positive share of all nuclei, ours − truth, points: mean absolute, and mean (bias); then of tumour cells
class       share of the found nuclei whose class is right: with our cut-off, and with the best one of each field
cut-off     median over the fields, mean nuclear DAB OD: ours; the best one (middle of the best range); share of the
            fields where ours is within a factor of 1.3 of the best range
negatives   95th percentile of the true negatives' DAB
positives   median of the true positives' DAB, and the share of them that is called negative
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the command does

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tools.bench.counting_data import Scene, masked_scenes, scanner_scenes
from tools.bench.counting_labs import lab_scenes
from tools.bench.counting_scores import pairs, score
from tools.bench.positive_held_out import Nuclei, held_out
from tools.bench.positive_parts import HEADER as PARTS_HEADER
from tools.bench.positive_parts import parts_line
from virtual_stain.config.counting import CountingSettings
from virtual_stain.config.phantom import LABS
from virtual_stain.counting.cells import CellClass
from virtual_stain.counting.count import Counted, count_image
from virtual_stain.counting.stain import examine_stain
from virtual_stain.markers import Marker

SETTINGS = CountingSettings()
_FACTOR = 1.3
_GRID = np.round(np.arange(0.02, 1.2, 0.005), 3)
HEADER = (
    f"{'pictures':22s}   F1  found   ratio error, bias   of tumour      class right  best    cut-off  best  near   "
    f"neg p95  pos p50  called negative"
)


@dataclass(frozen=True)
class Row:
    """One field."""

    name: str
    f1: float
    recall: float
    error: float
    tumour_error: float
    right: float
    best_right: float
    cut: float
    best_cut: float
    near: float
    negative_95: float
    positive_50: float
    missed: float
    flags: tuple[str, ...]
    nuclei: Nuclei


def read(scene: Scene) -> tuple[float, Counted, tuple[str, ...]]:
    stain = examine_stain([scene.rgb], SETTINGS, scene.mpp).stain
    counted = count_image(scene.rgb, (scene.mpp, scene.mpp), Marker.KI67, stain, SETTINGS)
    return stain.positive_od, counted, stain.flags


def row(scene: Scene) -> Row:
    cut, counted, flags = read(scene)
    cells = counted.cells
    found = score(scene, cells)
    i, t = np.array(pairs(cells.xy, scene.xy, 6 / scene.mpp)).T
    truth, ours, dab = scene.positive[t], cells.cell_class[i] == CellClass.POSITIVE, counted.measured.dab_od[i]
    right = ((dab[None, :] >= _GRID[:, None]) == truth).mean(axis=1)
    best = _GRID[right >= right.max() - 1e-9]
    off = max(cut / best.max(), best.min() / cut, 1.0)
    tumour = scene.positive[scene.tumour].mean()
    return Row(
        name=scene.name,
        f1=found.f1,
        recall=found.recall,
        error=found.ratio_error,
        tumour_error=100 * ((cells.counts().ratio or 0.0) - float(tumour)),
        right=float((ours == truth).mean()),
        best_right=float(right.max()),
        cut=cut,
        best_cut=float(np.sqrt(best.min() * best.max())),
        near=float(off <= _FACTOR),
        negative_95=_percentile(dab[~truth], 95),
        positive_50=_percentile(dab[truth], 50),
        missed=float((~ours[truth]).mean()) if truth.any() else np.nan,
        flags=flags,
        nuclei=Nuclei(counted.measured.dab_od, dab, truth),
    )


def _percentile(values: npt.NDArray[np.float32], at: float) -> float:
    return float(np.percentile(values, at)) if len(values) else np.nan


def line(name: str, rows: list[Row]) -> str:
    def mean(field: str) -> float:
        return float(np.nanmean([getattr(r, field) for r in rows]))

    def middle(field: str) -> float:
        return float(np.nanmedian([getattr(r, field) for r in rows]))

    errors, tumour = (np.array([getattr(r, f) for r in rows]) for f in ("error", "tumour_error"))
    return (
        f"{name:22s} {mean('f1'):.3f} {mean('recall'):.3f}   {np.abs(errors).mean():5.1f} {errors.mean():+6.1f}      "
        f"{np.abs(tumour).mean():5.1f} {tumour.mean():+6.1f}      {mean('right'):.3f}      {mean('best_right'):.3f}   "
        f"{middle('cut'):.3f}  {middle('best_cut'):.3f}  {mean('near'):.2f}    {middle('negative_95'):.3f}    "
        f"{middle('positive_50'):.2f}     {100 * mean('missed'):.0f} %"
    )


def show(name: str, scenes: list[Scene], *, each: bool) -> list[Row]:
    rows = [row(scene) for scene in scenes]
    if each:
        for one in rows:
            print(line(f"  {one.name}", [one]), " ".join(one.flags))
    print(line(name, rows), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("realdata", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="Where the fields of the phantom labs are kept.")
    parser.add_argument("--each", action="store_true", help="Every field, too, with the flags of its stain.")
    parser.add_argument("--held-out", action="store_true", help="Choose the rule's constants without each set in turn.")
    parser.add_argument("--parts", action="store_true", help="Only what each part adds to the error of the real tiles.")
    options = parser.parse_args()
    breast, others = masked_scenes(options.realdata)
    if options.parts:
        print("\n".join([PARTS_HEADER, *(parts_line(scene, read(scene)[1].cells) for scene in breast + others)]))
        return
    print(HEADER)
    sets = {"breast, masks": breast, "co-registered": others} | lab_scenes(options.work)
    rows = {name: show(name, scenes, each=options.each) for name, scenes in sets.items()}
    print(line("all labs", [row for lab in LABS[1:] for row in rows[lab]]))
    if options.held_out:
        print("\n".join(held_out({name: [row.nuclei for row in part] for name, part in rows.items()})))
    for scene in scanner_scenes(options.realdata):
        cut, counted, _ = read(scene)
        every, tumour = (counted.cells.counts(tumour_only=t).ratio or 0.0 for t in (False, True))
        shares = f"{100 * every:.1f} % of all nuclei, {100 * tumour:.1f} % of tumour cells"
        print(f"scanner {scene.name}: cut-off {cut:.3f}, {shares}")


if __name__ == "__main__":
    main()
