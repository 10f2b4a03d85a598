"""What counting costs: a tile, and a slide with one and two processes."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.fixtures.counting import FieldStyle, stained_field
from tools.bench.counting_phantoms import large_slide
from virtual_stain.config.counting import CountingSettings
from virtual_stain.counting.count import count_cells
from virtual_stain.counting.stain import estimate_stain
from virtual_stain.markers import Marker
from virtual_stain.memory import resident_bytes_of_tree

_TILE_MM2 = 0.3072**2
_SAMPLE_S = 0.2


def tile_cost() -> None:
    """Processor time of one 307 µm tile of 1024 px without context, the median of seven."""
    settings = CountingSettings()
    field = stained_field(307.2, 0.3, style=FieldStyle(spacing_um=10.5))
    stain = estimate_stain([field.rgb], settings, field.mpp)
    times = []
    for _ in range(7):
        start = time.process_time()
        cells = count_cells(field.rgb, field.mpp, Marker.KI67, stain, settings)
        times.append(time.process_time() - start)
    print(f"\ncost: 307 µm tile, 1024 px, {len(cells)} nuclei: {np.median(times):.3f} s of processor time", flush=True)


def scaling(folder: Path, size_mm: float) -> None:
    """A whole slide through `vstain count`: one and two processes, and the overlay of the whole slide."""
    slide = large_slide(folder, size_mm)
    print(f"cost: `vstain count` of {slide.name}")
    for jobs, overlay in ((1, False), (2, False), (2, True)):
        out = folder / f"count-{jobs}{'-overlay' if overlay else ''}"
        shutil.rmtree(out, ignore_errors=True)
        words = ["--marker", "ki67", "--out", str(out), "-q", "--jobs", str(jobs)]
        cost = _run_vstain(["count", str(slide), *words, *(["--full-overlay"] if overlay else [])])
        summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
        tiles = summary["area_mm2"] / _TILE_MM2
        name = f"{jobs} process{'es' if jobs > 1 else ''}{', --full-overlay' if overlay else ''}"
        print(
            f"  {name:28s} {cost.wall_s:.0f} s, {cost.processor_s / tiles:.3f} s of processor time a tile, {tiles:.0f} "
            f"tiles, {summary['all_nuclei']['nuclei']} nuclei, at most {cost.peak_gb:.2f} GB (load before "
            f"{cost.load:.1f})",
            flush=True,
        )


@dataclass(frozen=True, slots=True)
class _Cost:
    wall_s: float
    processor_s: float
    peak_gb: float
    """Of the command and its workers together, looked at five times a second."""
    load: float
    """Of the machine in the minute before."""


def _run_vstain(words: list[str]) -> _Cost:
    load, before, start = os.getloadavg()[0], _processor_s(), time.monotonic()
    command = subprocess.Popen([Path(sys.executable).with_name("vstain"), *words], stdout=subprocess.DEVNULL)
    peak = 0
    while command.poll() is None:
        peak = max(peak, resident_bytes_of_tree(command.pid))
        time.sleep(_SAMPLE_S)
    if command.returncode:
        raise SystemExit(f"vstain {' '.join(words)}: exit code {command.returncode}")
    return _Cost(time.monotonic() - start, _processor_s() - before, peak / 1e9, load)


def _processor_s() -> float:
    """Of all children that have ended, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
