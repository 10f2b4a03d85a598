"""Processor seconds of a labelled tile: each tile by itself, in blocks, and beside what the steps cost alone.

python tools/bench/bench_labels.py --folder PHANTOM

PHANTOM: `vstain phantom --out PHANTOM --size-mm 2 --he-mpp 0.25 --ihc-mpp 0.25`. The goal is 1.15 × (counting as
`vstain count` does it + reading both sides + encoding). All in one process, so that the ratios hold on a busy machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import cv2
import numpy as np

from virtual_stain.config import Config
from virtual_stain.counting.count import estimate_slide_stain
from virtual_stain.counting.windows import count_window, plan_windows, window_tasks
from virtual_stain.geometry import Box, Size
from virtual_stain.labels import build, ihc_block
from virtual_stain.labels.label import TileLabel
from virtual_stain.labels.raster import cut_blocks
from virtual_stain.labels.regions import Regions
from virtual_stain.labels.sources import PairSources, TileSettings
from virtual_stain.markers import Marker
from virtual_stain.phantom.truth import read_truth
from virtual_stain.slides.slide import Slide, SlideRef, open_slide
from virtual_stain.slides.tissue import find_tissue
from virtual_stain.tiles import TileRef, plan_tiles


class Clock:
    """Processor seconds of the steps that a function calls."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def watch(self, module: Any, name: str) -> None:
        """Replaces a function of a module by itself, timed."""
        function: Callable[..., Any] = getattr(module, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - start

        setattr(module, name, timed)


def _neighbours(tiles: tuple[TileRef, ...], wanted: int) -> list[TileRef]:
    """The square of tiles with most tissue, column by column."""
    side = round(wanted**0.5)
    at = {(t.col, t.row): t for t in tiles}
    squares = [
        [at[c, r] for c in range(col, col + side) for r in range(row, row + side)]
        for col, row in at
        if all((c, r) in at for c in range(col, col + side) for r in range(row, row + side))
    ]
    return max(squares, key=lambda square: sum(t.tissue_fraction for t in square))


def _count_like_the_command(ihc: Slide, ref: SlideRef, sources: PairSources, config: Config, around: Box) -> float:
    """Processor seconds that `vstain count` takes for the area of one tile, on windows in the middle of `around`."""
    plan = plan_windows(ihc, None, config.counting)
    x, y = around.centre
    place = x / plan.scale[0], y / plan.scale[1]
    nearest = sorted(
        plan.windows, key=lambda w: abs(w.core_x + w.core_x1 - 2 * place[0]) + abs(w.core_y + w.core_y1 - 2 * place[1])
    )[:2]
    tasks = window_tasks(ref, plan, Marker.KI67, sources.stain, config.counting)
    start, area = time.process_time(), 0.0
    for window in nearest:
        count_window(ihc, tasks[0], window)
        area += (window.core_x1 - window.core_x) * (window.core_y1 - window.core_y) * plan.mpp[0] * plan.mpp[1]
    return (time.process_time() - start) * config.tiling.window_um**2 / area


@click.command()
@click.option("--folder", type=click.Path(path_type=Path, exists=True), required=True, help="A phantom pair.")
@click.option("--tiles", "wanted", default=9, show_default=True, help="How many, as a square.")
def main(folder: Path, wanted: int) -> None:
    """Prints one table."""
    cv2.setNumThreads(1)
    config = Config()
    truth = read_truth(folder, "p001")
    he_ref, ihc_ref = (SlideRef(folder / "slides" / f"p001_{side}.tiff") for side in ("he", "ihc"))
    registration = SimpleNamespace(
        transform=truth.transform,
        bare_at=lambda p: np.zeros(len(p), np.bool_),
        error_at_um=lambda p: (np.full(len(p), 3.0), np.full(len(p), 7.0)),
    )
    settings = TileSettings(
        tile_px=config.tiling.tile_px,
        tile_mpp=config.tiling.tile_mpp,
        max_p95_um=60,
        labels=config.labels,
        counting=config.counting,
    )
    with open_slide(he_ref) as he, open_slide(ihc_ref) as ihc:
        he_tissue, ihc_tissue = find_tissue(he, config.tissue), find_tissue(ihc, config.tissue)
        sources = PairSources(
            he=he,
            ihc=ihc,
            he_tissue=he_tissue,
            ihc_tissue=ihc_tissue,
            registration=registration,  # type: ignore[arg-type]
            transform_sha256=build.transform_sha256(truth.transform),
            stain=estimate_slide_stain(ihc, ihc_tissue, config.counting),
            marker=Marker.KI67,
            regions=Regions(),
        )
        plan = plan_tiles(he, he_tissue, config.tiling)
        tiles = _neighbours(plan.tiles, wanted)
        clock = Clock()
        for module, name in (
            (ihc_block, "read_raster"),
            (ihc_block, "count_parts"),
            (build, "read_window"),
            (build, "encode_jpeg"),
        ):
            clock.watch(module, name)
        build.build_tile(sources, tiles[0], settings)  # warm
        found: dict[bool, list[TileLabel]] = {}
        for shared in (False, True):
            clock.seconds.clear()
            start = time.process_time()
            found[shared] = [
                build.build_tile(sources, tile, settings, counted)
                for block in cut_blocks(tiles, plan.grid, settings.count_px, settings.margin_px, shared=shared)
                for counted in (ihc_block.count_block(sources, block, settings),)
                for tile in block.tiles
            ]
            whole = (time.process_time() - start) / wanted
            steps = "  ".join(f"{name} {seconds / wanted:.3f}" for name, seconds in clock.seconds.items())
            click.echo(f"{'in blocks' if shared else 'tile by tile':14} {whole:.3f} s a tile:  {steps}")
        same = [t.label_id for t in found[False]] == [t.label_id for t in found[True]]
        click.echo(f"label ids equal: {same}; cells: {sum(len(t.cells) for t in found[True])}")
        corners = np.concatenate([tile.box.corners() for tile in tiles])
        under = Box.around(truth.transform.to_ihc(corners))
        counting = _count_like_the_command(ihc, ihc_ref, sources, config, under)
        start = time.process_time()
        ihc.read_patch(0, int(under.x), int(under.y), Size(int(under.width), int(under.height)))
        area = under.area * ihc.mpp.um2_per_px if ihc.mpp is not None else 1.0
        reading = (time.process_time() - start) * config.tiling.window_um**2 / area
        he_and_jpeg = (clock.seconds["read_window"] + clock.seconds["encode_jpeg"]) / wanted
        floor = counting + reading + he_and_jpeg
        click.echo(
            f"vstain count {counting:.3f} (reads, too) + IHC pixels {reading:.3f} + H&E and JPEG {he_and_jpeg:.3f} = "
            f"{floor:.3f} s a tile; in blocks {whole / floor:.2f} ×"
        )


if __name__ == "__main__":
    main()
