"""Reading alone: every window of a slide by OpenSlide and by the fast reader, with one and two threads, and the floor.

python tools/bench/bench_reading.py [--slide SLIDE]

Without --slide it makes two slides of the same synthetic tissue, a tiled JPEG TIFF and an NDPI. "Region": the window's
pixels as the file has them. "Window": the same, resampled to the tile. One run; the pixels are compared.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import click
import cv2
import numpy as np
import openslide
from scoring_slides import Mirrored, he_picture, write_jpeg_tiff, write_ndpi_slide

from virtual_stain.geometry import Box, Size
from virtual_stain.slides.jpeg_tiles import exact_levels
from virtual_stain.slides.slide import Slide, SlideRef, open_slide
from virtual_stain.slides.window import read_window

TILE = Size(1024, 1024)
Work = Callable[[Iterator[Box]], None]


def _boxes(slide: Slide, side: int) -> list[Box]:
    """Whole windows of `side` px in strips of eight, as `score` walks them."""
    columns, rows = slide.size.width // side, slide.size.height // side
    order = sorted(((c, r) for r in range(rows) for c in range(columns)), key=lambda p: (p[0] // 8, p[1], p[0]))
    return [Box(c * side, r * side, side, side) for c, r in order]


def _timed(workers: Sequence[Work], boxes: Iterable[Box]) -> tuple[float, float]:
    """Wall and processor seconds until all boxes are read by as many threads as there are workers."""
    lock, left = threading.Lock(), iter(boxes)

    def take() -> Iterator[Box]:
        while True:
            with lock:
                box = next(left, None)
            if box is None:
                return
            yield box

    threads = [threading.Thread(target=w, args=(take(),)) for w in workers]
    start, start_cpu = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - start, time.process_time() - start_cpu


def _bare_openslide(path: Path) -> Work:
    handle = openslide.OpenSlide(path)

    def work(boxes: Iterator[Box]) -> None:
        for b in boxes:
            handle.read_region((int(b.x), int(b.y)), 0, (int(b.width), int(b.height)))

    return work


def _slide(slide: Slide, resample: bool) -> Work:
    def work(boxes: Iterator[Box]) -> None:
        with slide.twin() as own:
            for b in boxes:
                if resample:
                    read_window(own, b, TILE)
                else:
                    own.read_level(0, b.x, b.y, Size(int(b.width), int(b.height)))

    return work


def _floor(path: Path, boxes: Sequence[Box]) -> tuple[float, float, int]:
    """Wall and processor seconds to decode every compressed tile that any window touches, once, in one thread."""
    with open_slide(SlideRef(path)) as slide:
        tiles = exact_levels(path, slide.level_sizes, ndpi=slide.format == "hamamatsu")[0]
    tile = tiles.layout.tile
    right, bottom = max(b.x1 for b in boxes), max(b.y1 for b in boxes)
    places = [(c, r) for r in range(-(-int(bottom) // tile.height)) for c in range(-(-int(right) // tile.width))]
    with path.open("rb") as stream:
        start, start_cpu = time.perf_counter(), time.process_time()
        for column, row in places:
            tiles.decode(stream.fileno(), column, row)
        return time.perf_counter() - start, time.process_time() - start_cpu, len(places)


def _check(path: Path, boxes: Sequence[Box]) -> None:
    with open_slide(SlideRef(path)) as fast, open_slide(SlideRef(path), fast=False) as slow:
        for b in boxes[:: max(1, len(boxes) // 12)]:
            np.testing.assert_array_equal(read_window(fast, b, TILE), read_window(slow, b, TILE))


def measure(path: Path, side: int, rounds: int) -> None:
    """Prints one table."""
    with open_slide(SlideRef(path)) as slide:
        boxes = _boxes(slide, side)
    _check(path, boxes)
    print(f"{path.name}: {len(boxes)} windows of {side} px, pixels equal")
    floor_s, floor_cpu, tiles = min(_floor(path, boxes) for _ in range(rounds))
    rows: dict[tuple[str, int], tuple[float, float]] = {}
    for threads in (1, 2):
        for _ in range(rounds):  # in turns, so that a busy moment does not hit one method alone
            for name in ("OpenSlide, region", "fast, region", "OpenSlide, window", "fast, window"):
                with open_slide(SlideRef(path), fast=name.startswith("fast")) as slide:
                    bare = name == "OpenSlide, region"
                    workers = [
                        _bare_openslide(path) if bare else _slide(slide, name.endswith("window"))
                        for _ in range(threads)
                    ]
                    seconds = _timed(workers, boxes)
                rows[name, threads] = min(seconds, rows.get((name, threads), (np.inf, np.inf)))
    base = rows["OpenSlide, region", 1]
    print(f"{'':20} threads  windows/s    s/slide  core ms/window   against OpenSlide, region, 1 thread: wall, core")
    rows["floor: decode once", 1] = floor_s, floor_cpu
    for (name, threads), (wall, cpu) in rows.items():
        print(
            f"{name:20} {threads:7} {len(boxes) / wall:10.1f} {wall:10.2f} {cpu / len(boxes) * 1e3:15.1f}"
            f"   {base[0] / wall:.2f} {base[1] / cpu:.2f}"
        )
    print(f"{tiles} compressed tiles")


@click.command()
@click.option("--slide", type=click.Path(path_type=Path, exists=True))
@click.option("--side", default=1229, show_default=True, help="Window, level-0 px.")
@click.option("--columns", default=12, show_default=True, help="Windows beside and below each other.")
@click.option("--rounds", default=2, show_default=True, help="The best of so many.")
def main(slide: Path | None, side: int, columns: int, rounds: int) -> None:
    """Prints a table for each slide."""
    cv2.setNumThreads(1)
    if slide is not None:
        measure(slide, side, rounds)
        return
    # whole restart intervals of 4096 px in the NDPI: scanners write 2048, this writer the largest that divides a row
    source = Mirrored(he_picture(), Size(-(-side * columns // 4096) * 4096, side * columns // 16 * 16 + 16))
    with tempfile.TemporaryDirectory() as name:
        measure(write_jpeg_tiff(Path(name) / "tiled.tif", source), side, rounds)
        measure(write_ndpi_slide(Path(name) / "slide.ndpi", source), side, rounds)


if __name__ == "__main__":
    main()
