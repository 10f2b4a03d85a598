"""What `vstain count` over many costs beside counting: a stand-in of 10 ms over 10,000 simulated slides.

python tools/bench/bench_throughput.py [--slides N]
python tools/bench/bench_throughput.py --out DIR [--pairs N] [--size-mm F] [--verb count …]

Processor time of this process, so that other work on the machine does not count; the stand-in's own is measured and
taken off. Also the memory after a tenth of the slides and after all, and a second run, in which all are kept.
`--out`: slides per hour of count, build-records and score on phantoms, with 1 and 2 processes and on a cluster of 2,
and the floors beside them (decoding, counting, the network). DIR keeps slides and model.
Wall time: for a quiet machine.
"""

from __future__ import annotations

import json
import os
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
from virtual_stain.workflows.count_slide import CountRequest
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


@click.command()
@click.option("--slides", default=10_000, show_default=True, help="Simulated ones.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder that keeps slides and model: measures the verbs.")
@click.option("--pairs", default=4, show_default=True)
@click.option("--size-mm", default=1.5, show_default=True)
@click.option("--verb", "verbs", multiple=True, default=("count", "build-records", "score"))
def main(slides: int, out: Path | None, pairs: int, size_mm: float, verbs: tuple[str, ...]) -> None:
    if out is not None:
        from throughput_verbs import measure

        out.mkdir(parents=True, exist_ok=True)
        measure(out, pairs, size_mm, verbs)
        return
    with tempfile.TemporaryDirectory() as folder:
        for name, value in simulate(slides, Path(folder)).items():
            print(f"{name}: {value:.2f}")


if __name__ == "__main__":
    main()
