"""Processor seconds of one tile, step by step, beside the floor of each step. One phantom pair, one core.

python tools/bench/bench_tiles.py
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import cv2
import numpy as np

from virtual_stain.config import Config
from virtual_stain.config.phantom import PhantomSettings
from virtual_stain.counting.count import count_cells, estimate_slide_stain
from virtual_stain.geometry import Affine2D, Size
from virtual_stain.labels.jpeg import encode_jpeg
from virtual_stain.labels.raster_map import map_to_ihc
from virtual_stain.markers import Marker
from virtual_stain.phantom.cohort import write_cohort
from virtual_stain.phantom.truth import read_truth
from virtual_stain.slides.slide import SlideRef, open_slide
from virtual_stain.slides.tissue import find_tissue
from virtual_stain.slides.window import read_warped_window, read_window
from virtual_stain.tiles import plan_tiles


def _cpu_s(function: Callable[[], object], repeats: int) -> float:
    """Median processor seconds of one call, after one warm-up."""
    function()
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        seconds.append(time.process_time() - start)
    return float(np.median(seconds))


@click.command()
@click.option("--repeats", default=9, show_default=True)
def main(repeats: int) -> None:
    """Prints one table."""
    cv2.setNumThreads(1)
    config = Config()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_cohort(folder, PhantomSettings(size_mm=1.2, seed=3))
        truth = read_truth(folder, "p001")
        slides = (SlideRef(folder / "slides" / f"p001_{side}.tiff") for side in ("he", "ihc"))
        with open_slide(next(slides)) as he, open_slide(next(slides)) as ihc:
            plan = plan_tiles(he, find_tissue(he, config.tissue), config.tiling)
            box = max(plan.tiles, key=lambda t: t.tissue_fraction).box
            side = config.tiling.tile_px
            out = Size(side, side)
            he_from_tile = Affine2D.scale_and_shift(
                "he_px0", "tile", (box.width / side, box.height / side), (box.x, box.y)
            )
            near = truth.transform.local_affine(box.centre, box.width / 2) @ he_from_tile
            corners = near.apply([[0, 0], [side, 0], [side, side], [0, side]])
            low = np.floor(corners.min(axis=0)).astype(int)
            span = np.ceil(corners.max(axis=0)).astype(int) - low
            warp = lambda: read_warped_window(  # noqa: E731
                ihc, near, out, lambda p: map_to_ihc(truth.transform, he_from_tile, p)
            )
            image = warp()[0]
            stain = estimate_slide_stain(ihc, find_tissue(ihc, config.tissue), config.counting)
            whole = Size(round(box.width), round(box.height))
            rows = [
                ("H&E window, upright", lambda: read_window(he, box, out)),
                ("  floor: its pixels from OpenSlide", lambda: he.read_level(0, int(box.x), int(box.y), whole)),
                ("IHC window, warped", warp),
                (
                    "  floor: its pixels from OpenSlide",
                    lambda: ihc.read_level(0, int(low[0]), int(low[1]), Size(int(span[0]), int(span[1]))),
                ),
                ("count cells", lambda: count_cells(image, 0.3, Marker.KI67, stain, config.counting)),
                ("encode JPEG 95, 4:4:4", lambda: encode_jpeg(image, 95)),
            ]
            for label, function in rows:
                click.echo(f"{label:38} {_cpu_s(function, repeats):.3f} s")


if __name__ == "__main__":
    main()
