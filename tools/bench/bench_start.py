"""What passes before the first tile of a slide: of a cold `vstain score`, and of the slides after the first.

python tools/bench/bench_start.py --out DIR [--slides N] [--set KEY=VALUE …]

DIR keeps slides and model, as that of bench_throughput.py. A cold start is measured from the start of the process,
beside the import of TensorFlow in a process of its own; a warm one from the opening of the slide. Wall and processor
seconds: the former only mean something on a quiet machine.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import click
from throughput_verbs import bundle, prepare

_IMPORT = """
import json, time
start = time.perf_counter()
from virtual_stain.scoring.start_tensorflow import start_tensorflow
start_tensorflow()
print(json.dumps([time.perf_counter() - start, time.process_time()]))
"""
_SCORE = """
import json, sys, time
from virtual_stain.scoring import score as scoring
from virtual_stain.workflows import score_many, score_slides as stage

begun, events = float(sys.argv[1]), []

def watch(module, name, before=False):
    real = getattr(module, name)
    def watched(*args, **kwargs):
        result = real(*args, **kwargs)
        events.append((name, time.time() - begun, time.process_time()))
        return result
    setattr(module, name, watched)

watch(score_many, "load_model")
watch(stage, "open_slide")
watch(stage, "require_he")
watch(scoring, "check_engine")
watch(scoring, "_predict")
from virtual_stain.cli.main import run
try:
    run(sys.argv[2:])
finally:
    print(json.dumps(events))
"""


def child(program: str, *arguments: str) -> list[list[float]]:
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
    found: list[list[float]] = json.loads(done.stdout.splitlines()[-1])
    return found


@click.command()
@click.option("--out", required=True, type=click.Path(path_type=Path))
@click.option("--slides", default=4, show_default=True)
@click.option("--size-mm", default=1.5, show_default=True)
@click.option("--set", "settings", multiple=True)
def main(out: Path, slides: int, size_mm: float, settings: tuple[str, ...]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    he, _, _ = prepare(out, slides, size_mm)
    model = bundle(out)
    wall, core = child(_IMPORT)
    print(f"import of TensorFlow: {wall:.2f} s, {core:.2f} processor s")
    shutil.rmtree(out / "started", ignore_errors=True)
    words = ["score", *map(str, he), "--model", str(model), "--out", str(out / "started"), "-q"]
    words += [word for setting in settings for word in ("--set", setting)]
    events = child(_SCORE, str(time.time()), *words)
    opened, is_first = 0.0, True
    for name, seconds, processor in events:
        if name == "open_slide":
            opened, seen = seconds, False
        if name != "_predict":
            print(f"  {name}: {seconds:.2f} s after the start, {processor:.2f} processor s")
        elif not seen:
            seen = True
            if is_first:
                print(f"cold: first tile {seconds:.2f} s after the start, {seconds - wall:.2f} s beside the import")
            else:
                print(f"warm: first tile {seconds - opened:.2f} s after the slide was opened")
            is_first = False


if __name__ == "__main__":
    main()
