"""Measures counting: against manual masks, between two scanners, under disturbances, and its speed.

    python tools/bench/bench_counting.py REALDATA [--phantom FOLDER] [--disturbed]

REALDATA holds `deepliif` (Ki67 tiles with manual masks) and `qupath_os1_os2_ometiff` (one region, two scanners);
FOLDER is an output of `vstain phantom`. Prints one table; the baseline in it is scikit-image's fixed colour
deconvolution with Otsu's threshold and a watershed. About 1 minute, 3 with --disturbed.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tools.bench.counting_data import Scene, disturbances, masked_scenes, phantom_scenes, scanner_scenes
from tools.bench.counting_scores import Score, baseline_cells, score, table_row, tile_errors
from virtual_stain.config.counting import CountingSettings
from virtual_stain.counting.cells import Cells
from virtual_stain.counting.count import count_cells
from virtual_stain.counting.stain import estimate_stain
from virtual_stain.markers import Marker

SETTINGS = CountingSettings()


def ours(scene: Scene) -> Cells:
    stain = estimate_stain([scene.rgb], SETTINGS, scene.mpp)
    return count_cells(scene.rgb, scene.mpp, Marker.KI67, stain, SETTINGS)


def accuracy(scenes: list[Scene], title: str, counter=ours) -> list[Score]:
    print(f"\n{title}")
    scores = [score(scene, counter(scene)) for scene in scenes]
    for scene, result in zip(scenes, scores, strict=True):
        print(table_row(scene.name, [result]))
    print(table_row("mean", scores))
    return scores


def scanners(root: Path) -> None:
    print("\none region on two scanners: positive share of all nuclei, of tumour cells, %")
    counted = [(scene.name, ours(scene)) for scene in scanner_scenes(root)]
    for name, cells in counted:
        ratios = [100 * (cells.counts(tumour_only=t).ratio or 0) for t in (False, True)]
        print(f"  {name:12s} {ratios[0]:6.1f} {ratios[1]:6.1f}   ({len(cells)} nuclei)")
    for tumour_only in (False, True):
        first, second = (100 * (c.counts(tumour_only=tumour_only).ratio or 0) for _, c in counted)
        print(f"  difference{' of tumour cells' if tumour_only else ''}: {abs(first - second):.1f} points")


def speed() -> None:
    from tests.fixtures.counting import FieldStyle, stained_field

    field = stained_field(307.2, 0.3, style=FieldStyle(spacing_um=10.5))
    stain = estimate_stain([field.rgb], SETTINGS, field.mpp)
    times = []
    for _ in range(7):
        start = time.process_time()
        cells = count_cells(field.rgb, field.mpp, Marker.KI67, stain, SETTINGS)
        times.append(time.process_time() - start)
    print(f"\nspeed: 307 µm tile, 1024 px, {len(cells)} nuclei: {np.median(times):.3f} s of processor time")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("realdata", type=Path)
    parser.add_argument("--phantom", type=Path, help="An output of `vstain phantom`.")
    parser.add_argument("--disturbed", action="store_true", help="Colour casts, stain strength, blur, JPEG.")
    options = parser.parse_args()
    breast, others = masked_scenes(options.realdata)
    accuracy(breast, "four breast tiles, manual masks")
    accuracy(others, "two co-registered tiles")
    accuracy(breast, "baseline: rgb2hed + Otsu + watershed, breast tiles", baseline_cells)
    scanners(options.realdata)
    if options.phantom:
        scenes = phantom_scenes(options.phantom)
        accuracy(scenes, "phantoms")
        errors = np.concatenate([tile_errors(scene, ours(scene)) for scene in scenes])
        print(
            f"  tile ratio, tumour cells: mean absolute error {np.abs(errors).mean():.1f} points, {len(errors)} tiles"
        )
    if options.disturbed:
        for name, disturb in disturbances():
            accuracy([disturb(scene) for scene in breast], f"breast tiles, {name}")
    speed()


if __name__ == "__main__":
    main()
