"""What it costs to find that everything is done: `build-records` over finished pairs, `score` over finished slides.

python tools/bench/bench_reuse.py WORK --pairs 50 --slides 200

The first call makes phantoms, records and reports below WORK. This takes minutes; later calls find them. Each command
then runs again in a process of its own, and its processor and wall seconds are printed, imports included. The network
is a stand-in that needs no time. To compare two versions, run this file with PYTHONPATH at either, with two WORKs.
"""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import click

_VSTAIN = (sys.executable, "-c", "from virtual_stain.cli.main import run; run()")
_SCORE = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from bench_memory import StandIn
from virtual_stain.scoring.inputs import collect_inputs
from virtual_stain.workflows.score_many import score_slides
from virtual_stain.workflows.score_slides import ScoreOptions
slides = sorted(Path(sys.argv[2]).glob("*.tiff"))
inputs = collect_inputs(slides, None, out=Path(sys.argv[3]), mpp=None)
score_slides(inputs, ScoreOptions(model="-"), predictor=StandIn())
"""


def timed(*command: str) -> tuple[float, float]:
    """(processor s, wall s) of a command that ends well, or with some of its pairs rejected (6)."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode not in (0, 6):
        raise click.ClickException(done.stderr)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return used, time.monotonic() - start


@click.command()
@click.argument("work", type=click.Path(path_type=Path))
@click.option("--pairs", default=50, show_default=True)
@click.option("--slides", default=200, show_default=True)
@click.option("--times", default=3, show_default=True, help="How often each command is repeated.")
def main(work: Path, pairs: int, slides: int, times: int) -> None:
    """Prints one line a command: the least of its processor and wall seconds."""
    cohort, records, many, reports = (work / n for n in ("cohort", "records", "slides", "reports"))
    phantom = ("phantom", "--out", str(cohort), "--pairs", str(pairs), "--size-mm", "0.6", "--jobs", "2", "-q")
    build = ("build-records", str(cohort / "pairs.csv"), "--out", str(records), "--accept-unreviewed", "--jobs", "2")
    score = (sys.executable, "-c", _SCORE, str(Path(__file__).parent), str(many), str(reports))
    if not (cohort / "pairs.csv").exists():
        timed(*_VSTAIN, *phantom)
    if not (records / "manifest.json").exists():
        timed(*_VSTAIN, *build, "-q")
    many.mkdir(parents=True, exist_ok=True)
    first = cohort / "slides" / "p001_he.tiff"
    for index in range(slides):
        path = many / f"s{index:04d}.tiff"
        if not path.exists():
            shutil.copy(first, path)
            with path.open("ab") as stream:
                stream.write(f"slide {index}".encode())  # another content hash
    timed(*score)
    for name, command in (
        (f"build-records, {pairs} finished pairs", (*_VSTAIN, *build, "-q")),
        (f"score, {slides} finished slides", score),
    ):
        taken = [timed(*command) for _ in range(times)]
        used, wall = (min(t[i] for t in taken) for i in (0, 1))
        click.echo(f"{name}: {used:.2f} s of processor, {wall:.2f} s")


if __name__ == "__main__":
    main()
