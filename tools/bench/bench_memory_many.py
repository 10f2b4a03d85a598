"""Memory of many: a worker of `build-records` on a pair of 20 × 20 mm at 0.25 µm/px, and 200 slides in one process.

python tools/bench/bench_memory_many.py pair [--size-mm F] [--parts N]
python tools/bench/bench_memory_many.py slides [--slides N]

The pair repeats a phantom by mirroring, on glass with a crooked outline. One process does what a worker does:
registration, tissue, stain and plan, then whole parts of 64 tiles. `slides`: N fields through `count`, N slides through
`score` with a stand-in for the network; the resident set after a tenth, a half and all.
"""

from __future__ import annotations

import gc
import os
import resource
import tempfile
import time
from pathlib import Path

import click
import cv2
import numpy as np
import numpy.typing as npt
from bench_memory import MPP, TILE_PX, StandIn, jpeg_level

from virtual_stain.config import Config
from virtual_stain.config.phantom import PhantomSettings
from virtual_stain.geometry import Size
from virtual_stain.markers import Marker
from virtual_stain.memory import resident_bytes_of_tree
from virtual_stain.pairs import StainPair
from virtual_stain.phantom.cohort import write_cohort
from virtual_stain.phantom.tiff_bytes import TiffStream
from virtual_stain.slides.slide import SlideRef, open_slide

UNIT_PX = 4096
Rgb = npt.NDArray[np.uint8]


def peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def units(folder: Path) -> tuple[Rgb, Rgb]:
    """uint8[4096, 4096, 3] of the H&E and of the IHC side of a phantom in one place, 1 mm of tissue."""
    pose = {"rotation_deg": 0.0, "mirror": False, "stretch_fraction": 0.0, "elastic_um": 0.0}
    write_cohort(folder, PhantomSettings(size_mm=1.7, he_mpp=MPP, ihc_mpp=MPP, seed=3, **pose))
    found = []
    for side in ("he", "ihc"):
        with open_slide(SlideRef(next((folder / "slides").glob(f"*_{side}.*")))) as slide:
            x, y = (slide.size.width - UNIT_PX) // 2, (slide.size.height - UNIT_PX) // 2
            found.append(slide.read_level(0, x, y, Size(UNIT_PX, UNIT_PX)))
    return found[0], found[1]


def write_mirrored(path: Path, unit: Rgb, side_mm: float) -> Path:
    """A pyramid of levels 1, 4, 16; each compressed tile of the pattern is written once and named many times."""
    side = -(-round(side_mm * 1000 / MPP) // UNIT_PX) * UNIT_PX
    upper = np.concatenate([unit, unit[:, ::-1]], axis=1)
    period = np.concatenate([upper, upper[::-1]])
    glass = np.full((TILE_PX, TILE_PX, 3), 244, np.uint8)
    blocks = side // UNIT_PX
    y, x = np.mgrid[:blocks, :blocks] / blocks - 0.5
    inside = np.hypot(x * 1.05, y) < 0.36 + 0.09 * np.sin(3 * np.arctan2(y, x) + 1) + 0.04 * np.sign(x)
    with path.open("wb") as stream:
        tiff = TiffStream(stream, path.name, big=True)
        for factor in (1, 4, 16):
            small = cv2.resize(period, None, fx=1 / factor, fy=1 / factor, interpolation=cv2.INTER_AREA)
            n, count = len(small) // TILE_PX, side // factor // TILE_PX
            starts = range(0, len(small), TILE_PX)
            cut = [small[j : j + TILE_PX, i : i + TILE_PX] for j in starts for i in starts]
            data = [_jpeg(glass), *map(_jpeg, cut)]
            places = [tiff.data(d) for d in data]
            row, col = np.mgrid[:count, :count]
            block = UNIT_PX // factor // TILE_PX
            which = np.where(inside[row // block, col // block], 1 + (row % n) * n + col % n, 0).ravel()
            tiff.directory(jpeg_level(factor, (side // factor, side // factor), places, data, which))
    return path


def _jpeg(tile: Rgb) -> bytes:
    return bytes(cv2.imencode(".jpg", cv2.cvtColor(tile, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 80])[1])


def _slides_of_pair(folder: Path, size_mm: float) -> tuple[Path, Path]:
    he, ihc = units(folder / "phantom")
    return write_mirrored(folder / "he.tif", he, size_mm), write_mirrored(folder / "ihc.tif", ihc, size_mm)


@click.group()
def main() -> None:
    """Prints resident memory."""


@main.command()
@click.option("--size-mm", default=20.0, show_default=True)
@click.option("--parts", default=2, show_default=True, help="Parts of the tiles to build, of those with most tiles.")
def pair(size_mm: float, parts: int) -> None:
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    context = multiprocessing.get_context("spawn")  # the drawing's memory is not a worker's
    with (
        tempfile.TemporaryDirectory() as name,
        ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as pool,
    ):
        he, ihc = pool.submit(_slides_of_pair, Path(name), size_mm).result()
        pool.submit(_work, Path(name), he, ihc, parts).result()


def _work(folder: Path, he: Path, ihc: Path, wanted: int) -> None:
    from virtual_stain.workflows.pair_job import make_job, prepare_pair
    from virtual_stain.workflows.part_job import build_part, cut

    cv2.setNumThreads(1)  # as in a worker
    with open_slide(SlideRef(he)) as slide:
        size = slide.size
    print(f"two slides of {size.width} × {size.height} px; {peak_gb():.2f} GB before", flush=True)
    row = StainPair("big", "P", Marker.KI67, SlideRef(he), SlideRef(ihc))
    start = time.process_time()
    prepared = prepare_pair(make_job(row, folder / "out", Config()))
    print(
        f"registered ({prepared.verdict}), {len(prepared.tiles)} tiles planned: {time.process_time() - start:.0f} "
        f"processor s, peak {peak_gb():.2f} GB",
        flush=True,
    )
    for part in sorted(cut(prepared), key=lambda p: -len(p.tiles))[:wanted]:
        done = build_part(part)
        print(f"{done.built} tiles built, {done.seconds:.0f} processor s, peak {peak_gb():.2f} GB", flush=True)


@main.command()
@click.option("--slides", default=200, show_default=True)
def slides(slides: int) -> None:
    from tests.fixtures.counting import FieldStyle, stained_field
    from tests.fixtures.models import block_slide
    from virtual_stain.scoring.inputs import collect_inputs
    from virtual_stain.workflows.count_many import CountManyOptions, collect_requests, count_many
    from virtual_stain.workflows.count_slide import CountRequest
    from virtual_stain.workflows.score_many import score_slides
    from virtual_stain.workflows.score_slides import ScoreOptions

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "ihc").mkdir()
        (folder / "he").mkdir()
        field = stained_field(100.0, 0.5, style=FieldStyle(spacing_um=12.0)).rgb[:, :, ::-1]
        for n in range(slides):
            cv2.imwrite(str(folder / "ihc" / f"{n:03d}.png"), field)
            block_slide(folder / "he" / f"{n:03d}.tiff", [[150, 170]])
        common = CountRequest(SlideRef(Path(), (0.5, 0.5)), Marker.KI67, folder / "counted")
        requests = collect_requests([folder / "ihc"], None, common, marker_given=True)
        told = _Told("count", slides)
        count_many(requests, CountManyOptions(out=common.out, config=Config()), done=lambda _: told.next())
        told = _Told("score", slides)
        inputs = collect_inputs([folder / "he"], None, out=folder / "scored", mpp=None)
        score_slides(inputs, ScoreOptions(model="stand-in"), predictor=StandIn(), done=lambda _: told.next())


class _Told:
    """Says the resident set after a tenth, a half and all."""

    def __init__(self, verb: str, total: int) -> None:
        self.verb, self.n, self.when = verb, 0, (max(1, total // 10), total // 2, total)

    def next(self) -> None:
        self.n += 1
        if self.n in self.when:
            gc.collect()
            print(f"{self.verb}, {self.n} slides: {resident_bytes_of_tree(os.getpid()) / 1e6:.0f} MB", flush=True)


if __name__ == "__main__":
    main()
