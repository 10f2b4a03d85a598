"""What counting costs: a tile, and a slide with one and two processes."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from tests.fixtures.counting import FieldStyle, stained_field
from tools.bench.counting_phantoms import large_slide
from virtual_stain.config.counting import CountingSettings
from virtual_stain.counting.count import count_cells
from virtual_stain.counting.stain import estimate_stain
from virtual_stain.markers import Marker

_TILE_MM2 = 0.3072**2
# one command in a process of its own: its memory, and that of its largest worker
_COUNT = """
import json, resource, sys, time
from virtual_stain.cli.main import _run
start = time.monotonic()
code = _run(sys.argv[1:])
wall = time.monotonic() - start
own, child = (resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
seconds = own.ru_utime + own.ru_stime + child.ru_utime + child.ru_stime
print(json.dumps([code, wall, seconds, own.ru_maxrss / 1e6, child.ru_maxrss / 1e6]))
"""


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
    """A whole slide through `vstain count`, with one and with two processes."""
    import json

    slide = large_slide(folder, size_mm)
    print(f"cost: `vstain count` of {slide.name}")
    for jobs in (1, 2):
        out = folder / f"count-{jobs}"
        shutil.rmtree(out, ignore_errors=True)
        words = ["count", str(slide), "--marker", "ki67", "--out", str(out), "-q", "--jobs", str(jobs)]
        done = subprocess.run([sys.executable, "-c", _COUNT, *words], capture_output=True, text=True, check=True)
        code, wall, seconds, own_gb, child_gb = json.loads(done.stdout.splitlines()[-1])
        summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
        tiles = summary["area_mm2"] / _TILE_MM2
        # workers are alike: the largest one, times their number, is the most that they can take together
        total = own_gb + jobs * child_gb if jobs > 1 else own_gb
        print(
            f"  {jobs} process{'es' if jobs > 1 else '  '}: {wall:.0f} s, {seconds / tiles:.3f} s of processor time a "
            f"tile, {tiles:.0f} tiles, {summary['all_nuclei']['nuclei']} nuclei, at most {total:.2f} GB (exit {code})",
            flush=True,
        )
