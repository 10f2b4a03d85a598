"""Measures counting: one table of everything that is known about how good and how fast it is.

    python tools/bench/bench_counting.py REALDATA --work FOLDER [--slide-mm 11.7]

REALDATA holds `deepliif` (Ki67 tiles with masks) and `qupath_os1_os2_ometiff` (one region, two scanners); FOLDER keeps
the phantoms. All of it with the default settings. "fixed" (rgb2hed + Otsu + watershed) and "local" (optical density
above its surroundings + peaks) are baselines of the same run; "tumour" is ours, tumour cells only. About 6 minutes on
one core; with --slide-mm 11.7 (a slide of 1,000 tissue tiles, made once in 12 minutes) 12 more on two.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the command does

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tools.bench.counting_baselines import fixed_vectors, local_density
from tools.bench.counting_cost import scaling, tile_cost
from tools.bench.counting_data import Scene, masked_scenes, scanner_scenes
from tools.bench.counting_disturbances import disturbances
from tools.bench.counting_phantoms import membrane_score, nuclear_scenes, tumour_accuracy
from tools.bench.counting_scores import HEADER, score, table_row, tile_errors
from virtual_stain.config.counting import CountingSettings
from virtual_stain.counting.cells import Cells
from virtual_stain.counting.count import count_cells
from virtual_stain.counting.stain import estimate_stain
from virtual_stain.markers import Marker

SETTINGS = CountingSettings()


def ours(scene: Scene) -> Cells:
    stain = estimate_stain([scene.rgb], SETTINGS, scene.mpp)
    return count_cells(scene.rgb, scene.mpp, Marker.KI67, stain, SETTINGS)


def tumour_only(scene: Scene) -> Cells:
    cells = ours(scene)
    return cells.select(cells.tumour)


METHODS: dict[str, Callable[[Scene], Cells]] = {
    "ours": ours,
    "tumour": tumour_only,
    "fixed": fixed_vectors,
    "local": local_density,
}


def accuracy(name: str, scenes: list[Scene], methods: tuple[str, ...], *, each: bool = False) -> None:
    for method in methods:
        scores = [score(scene, METHODS[method](scene)) for scene in scenes]
        if each:
            for scene, one in zip(scenes, scores, strict=True):
                print(table_row(f"  {scene.name}", method, [one]))
        print(table_row(name, method, scores), flush=True)


def disturbed(scenes: list[Scene]) -> None:
    plain = [_ratio(ours(scene)) for scene in scenes]
    for name, disturb in disturbances():
        changed = [disturb(scene) for scene in scenes]
        counted = [ours(scene) for scene in changed]
        print(table_row(f"six tiles, {name}", "ours", [score(s, c) for s, c in zip(changed, counted, strict=True)]))
        worst = 100 * np.abs(np.subtract(plain, [_ratio(cells) for cells in counted])).max()
        print(f"{'':34s} largest change of a tile's ratio: {worst:.1f} points", flush=True)


def _ratio(cells: Cells) -> float:
    return cells.counts(tumour_only=False).ratio or 0.0


def scanners(root: Path) -> None:
    print("\none region on two scanners: positive share of all nuclei, of tumour cells, %")
    for method in ("ours", "fixed", "local"):
        counted = [METHODS[method](scene) for scene in scanner_scenes(root)]
        shares = [[100 * (c.counts(tumour_only=t).ratio or 0) for c in counted] for t in (False, True)]
        text = "   ".join(f"{a:.1f} / {b:.1f} (apart {abs(a - b):.1f})" for a, b in shares)
        print(f"  {method:9s} {text}", flush=True)


def phantoms(folder: Path) -> None:
    for hard in (False, True):
        name = "phantoms, hard" if hard else "phantoms"
        scenes = nuclear_scenes(folder, hard=hard)
        accuracy(name, scenes, ("ours", "fixed", "local"))
        counted = [ours(scene) for scene in scenes]
        errors = np.concatenate([tile_errors(s, c) for s, c in zip(scenes, counted, strict=True)])
        tumour = [tumour_accuracy(s, c) for s, c in zip(scenes, counted, strict=True)]
        print(
            f"{'':34s} tiles, tumour cells: mean absolute error {np.abs(errors).mean():.1f} points "
            f"({len(errors)} tiles); tumour or other, balanced accuracy: {np.mean(tumour):.3f} "
            f"(worst slide {min(tumour):.3f})"
        )


def membranes() -> None:
    print("\nmembranes, phantoms of 600 µm, tumour cells: class right (0, 1+, 2+, 3+), stained or not right, TPS error")
    for marker in (Marker.HER2, Marker.PDL1):
        for hard in (False, True):
            for logit in (-1.3, 0.0, 1.5):
                m = membrane_score(marker, logit, seed=7, hard=hard)
                each = " ".join(f"{v:.2f}" for v in m.per_class)
                print(
                    f"  {marker.label:6s} mean log-odds {logit:+.1f}{' hard' if hard else '     '} {m.same_class:.3f} "
                    f"({each})  {m.stained:.3f}  {m.tps_error:+.1f}",
                    flush=True,
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("realdata", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="Where phantoms are kept.")
    parser.add_argument("--slide-mm", type=float, default=3.0, help="Slide for the cost; 11.7: 1,000 tiles of tissue.")
    options = parser.parse_args()
    breast, others = masked_scenes(options.realdata)
    print(HEADER)
    everything = ("ours", "tumour", "fixed", "local")
    accuracy("four breast tiles, manual masks", breast, everything, each=True)
    accuracy("two co-registered tiles", others, everything, each=True)
    accuracy("all six", breast + others, everything)
    disturbed(breast + others)
    scanners(options.realdata)
    print(f"\n{HEADER}")
    phantoms(options.work)
    membranes()
    tile_cost()
    scaling(options.work, options.slide_mm)


if __name__ == "__main__":
    main()
