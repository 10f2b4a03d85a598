"""Peak memory of `vstain score` beside the model, on a slide of 150,000 × 100,000 px.

python tools/bench/bench_memory.py

The slide is a real tiled JPEG pyramid whose tiles share a few compressed pictures, so that the file stays small. The
network is a stand-in that needs no memory: what is measured is everything else (resident set of the process).
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import click
import cv2
import numpy as np
import numpy.typing as npt

from virtual_stain.config import ScoringSettings, TilingSettings
from virtual_stain.exporting.card import ModelCard
from virtual_stain.markers import Marker, ValueDefinition
from virtual_stain.phantom import tiff_bytes as tb
from virtual_stain.phantom.tiff_bytes import TiffStream, pixels_per_cm
from virtual_stain.progress import Console
from virtual_stain.scoring.inputs import collect_inputs
from virtual_stain.scoring.predictor import Predictor
from virtual_stain.workflows.score_many import score_slides
from virtual_stain.workflows.score_slides import ScoreOptions

TILE_PX, MPP = 256, 0.25
Rgb = npt.NDArray[np.uint8]


class StandIn(Predictor):
    """Answers from the mean colour."""

    card = ModelCard(
        name="stand-in",
        version=1,
        markers=(Marker.KI67,),
        value_definition=ValueDefinition.POSITIVE_RATIO,
        tiling=TilingSettings(),
        crop_px=512,
        min_tissue_fraction=0.5,
        min_tumour_cells=1.0,
    )
    sha256 = "0" * 64

    def predict(self, tiles: Rgb) -> dict[str, npt.NDArray[np.float32]]:
        red = tiles[:, ::16, ::16, 0].mean(axis=(1, 2)) / 255
        return {"ki67": red.astype(np.float32), "ki67_tumour_cells": np.full(len(tiles), 100, np.float32)}


def jpeg_level(
    factor: int, size: tuple[int, int], places: Sequence[int], data: Sequence[bytes], which: npt.NDArray[np.int64]
) -> dict[int, tuple[int, object]]:
    """Tags of a level of `size` (width, height) in JPEG tiles: tile n shows picture `which[n]`."""
    return {
        254: (tb.LONG, int(factor > 1)),
        256: (tb.LONG, size[0]),
        257: (tb.LONG, size[1]),
        258: (tb.SHORT, (8, 8, 8)),
        259: (tb.SHORT, 7),
        262: (tb.SHORT, 6),
        277: (tb.SHORT, 3),
        282: (tb.RATIONAL, pixels_per_cm(MPP) / factor),
        283: (tb.RATIONAL, pixels_per_cm(MPP) / factor),
        284: (tb.SHORT, 1),
        296: (tb.SHORT, 3),
        322: (tb.LONG, TILE_PX),
        323: (tb.LONG, TILE_PX),
        324: (tb.LONG8, [places[i] for i in which]),
        325: (tb.LONG, [len(data[i]) for i in which]),
        530: (tb.SHORT, (2, 2)),
    }


def write_slide(path: Path, width: int, height: int, tissue_fraction: float) -> Path:
    """Glass with a block of tissue in its middle."""
    rng = np.random.default_rng(0)
    noise = rng.integers(-50, 50, (4, TILE_PX, TILE_PX, 3))
    pictures = [np.full((TILE_PX, TILE_PX, 3), 244, np.uint8)]
    pictures += [np.clip(np.array([170, 100, 160]) + n, 0, 255).astype(np.uint8) for n in noise]
    options = [cv2.IMWRITE_JPEG_QUALITY, 80]
    data = [cv2.imencode(".jpg", cv2.cvtColor(p, cv2.COLOR_RGB2BGR), options)[1].tobytes() for p in pictures]
    side = tissue_fraction**0.5
    with path.open("wb") as stream:
        tiff = TiffStream(stream, path.name, big=True)
        places = [tiff.data(d) for d in data]
        for factor in (1, 4, 16):
            w, h = width // factor, height // factor
            columns, rows = -(-w // TILE_PX), -(-h // TILE_PX)
            y, x = np.mgrid[:rows, :columns]
            inside = (abs(x / columns - 0.5) < side / 2) & (abs(y / rows - 0.5) < side / 2)
            which = np.where(inside, 1 + (x * 7 + y * 3) % 4, 0).ravel()
            tiff.directory(jpeg_level(factor, (w, h), places, data, which))
    return path


def peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


@click.command()
@click.option("--width", default=150_000, show_default=True)
@click.option("--height", default=100_000, show_default=True)
@click.option("--tissue", default=0.15, show_default=True, help="Part of the slide that is tissue.")
@click.option("--jobs", default=2, show_default=True)
def main(width: int, height: int, tissue: float, jobs: int) -> None:
    """Prints memory before and after."""
    before = peak_gb()
    with tempfile.TemporaryDirectory() as name:
        path = write_slide(Path(name) / "wide.tif", width, height, tissue)
        inputs = collect_inputs([path], None, out=Path(name) / "out", mpp=None)
        options = ScoreOptions(model="stand-in", scoring=ScoringSettings(), jobs=jobs)
        start = time.perf_counter()
        report = score_slides(inputs, options, predictor=StandIn(), progress=Console())[0].report
        assert report is not None
        tiles = report["tiles"]
        print(
            f"{width} × {height} px, {path.stat().st_size / 1e6:.0f} MB file, {tiles['scored']} tiles scored, "
            f"{tiles['glass']} of glass, {time.perf_counter() - start:.0f} s"
        )
    print(f"peak resident memory: {before:.2f} GB before, {peak_gb():.2f} GB at the end")


if __name__ == "__main__":
    main()
