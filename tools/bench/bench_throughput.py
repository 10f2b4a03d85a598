"""What `vstain count` over many costs beside counting: a stand-in of 10 ms over 10,000 simulated slides.

python tools/bench/bench_throughput.py [--slides N] [--count N]

Processor time of this process, so that other work on the machine does not count; the stand-in's own is measured and
taken off. Also the memory after a tenth of the slides and after all, and a second run, in which all are kept.
`--count N`: slides per hour of real counts, N small fields, with 1 and 2 processes, and the bare count beside it.
"""

from __future__ import annotations

import json
import os
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from virtual_stain.config import Config
from virtual_stain.markers import Marker
from virtual_stain.memory import resident_bytes_of_tree
from virtual_stain.slides.slide import SlideRef
from virtual_stain.workflows import count_many as module
from virtual_stain.workflows.count_many import CountManyOptions, collect_requests, count_many
from virtual_stain.workflows.count_slide import CountRequest, count_slide
from virtual_stain.workflows.many import Done, Finished

_SECONDS = 0.01
_SUMMARY: dict[str, Any] = {
    "marker": "ki67",
    "value": {"value": 0.25, "unit": "fraction"},
    "tumour": {"ratio": 0.25, "positive": 25, "negative": 75, "nuclei": 100},
    "all_nuclei": {"ratio": 0.25, "positive": 25, "negative": 75},
    "slide": {"mpp": [0.25, 0.25]},
    "trust": {"flags": []},
    "stain": {"flags": []},
    "area_mm2": 1.0,
    "area_of": "tissue",
    "tumour_source": "region",
    "warnings": [],
}


class StandIn:
    """In place of counting a slide: waits, writes one file, and knows what it cost."""

    def __init__(self) -> None:
        self.calls, self.processor_s = 0, 0.0

    def __call__(self, request: CountRequest, **_: object) -> Finished:
        start = time.process_time()
        time.sleep(_SECONDS)
        request.out.mkdir(exist_ok=True)
        path = request.out / "summary.json"
        path.write_text(json.dumps(_SUMMARY))
        row = module._row(request, _SUMMARY)
        self.calls += 1
        self.processor_s += time.process_time() - start
        return Finished(row, (path,))


def simulate(slides: int, folder: Path) -> dict[str, float]:
    """Processor ms a slide, MB, and processor seconds of the run that keeps all."""
    module.headline_of = lambda _: "25 %"
    for n in range(slides):
        (folder / f"{n:05d}.svs").write_bytes(b"x")
    stand_in = StandIn()
    module._count_one = stand_in
    memory: list[float] = []

    def done(_: Done) -> None:
        if stand_in.calls in (max(1, slides // 10), slides):
            memory.append(resident_bytes_of_tree(os.getpid()) / 1e6)

    options = CountManyOptions(out=folder / "out", config=Config(), jobs=1)
    found = {}
    for name in ("first", "again"):
        start, own = time.process_time(), stand_in.processor_s
        common = CountRequest(SlideRef(Path()), Marker.KI67, folder / "out")
        requests = collect_requests([folder], None, common, marker_given=True)
        count_many(requests, options, done=done if name == "first" else lambda _: None)
        found[name] = time.process_time() - start - (stand_in.processor_s - own)
    assert stand_in.calls == slides, "the second run kept nothing"
    return {
        "runner_ms_per_slide": found["first"] / slides * 1e3,
        "resume_s": found["again"],
        "mb_after_a_tenth": memory[0],
        "mb_at_the_end": memory[-1],
    }


def real(slides: int, folder: Path) -> dict[str, float]:
    """Slides per hour of processor time, bare and through the runner with 1 and 2 processes."""
    import cv2

    from tests.fixtures.counting import FieldStyle, stained_field

    picture = stained_field(400.0, 0.5, style=FieldStyle(spacing_um=12.0)).rgb
    paths = [folder / f"{n}.png" for n in range(slides)]
    for path in paths:
        cv2.imwrite(str(path), picture[:, :, ::-1])
    found = {}
    start = _processor_s()
    for path in paths:
        request = CountRequest(SlideRef(path, (0.5, 0.5)), Marker.KI67, folder / "bare" / path.stem)
        count_slide(request, Config(), jobs=1)
    found["bare"] = _processor_s() - start
    for jobs in (1, 2):
        start, wall = _processor_s(), time.monotonic()
        common = CountRequest(SlideRef(Path(), (0.5, 0.5)), Marker.KI67, folder / f"jobs{jobs}")
        requests = collect_requests(paths, None, common, marker_given=True)
        count_many(requests, CountManyOptions(out=common.out, config=Config(), jobs=jobs))
        found[f"jobs_{jobs}"] = _processor_s() - start
        found[f"jobs_{jobs}_wall"] = time.monotonic() - wall
    return {name: slides / seconds * 3600 for name, seconds in found.items()}


def _processor_s() -> float:
    """Of this process and of its children that have ended."""
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in usage)


@click.command()
@click.option("--slides", default=10_000)
@click.option("--count", "counted", default=0)
def main(slides: int, counted: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        if counted:
            for name, value in real(counted, Path(folder)).items():
                print(f"{name}: {value:.0f} slides per hour")
            return
        for name, value in simulate(slides, Path(folder)).items():
            print(f"{name}: {value:.2f}")


if __name__ == "__main__":
    main()
