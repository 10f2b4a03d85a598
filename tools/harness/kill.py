"""kill -9 in the middle of every verb, then the same command again: is anything lost, half, or left behind?

    python tools/harness/kill.py OUT --verb score --kills 30 --seed 0

The moment of each kill is drawn with a fixed seed over the time that the undisturbed run took. After it the command
runs to its end, and its outputs are compared with those of the undisturbed run. Ends with 1 where anything differs.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tools.harness.scene import Scene, Verb, left_behind, make_scene, outputs

VERBS = ("build-records", "fit", "score", "count", "export", "register")
_MOST_S = 900.0


def run(scene: Scene, verb: Verb, kills: int, seed: int = 0) -> Iterator[str]:
    """A sentence for every kill after which something was not as after the undisturbed run."""
    work = scene.folder / f"kill-{verb.name}"
    shutil.rmtree(work, ignore_errors=True)
    began = time.monotonic()
    done = scene.run(verb, work / "undisturbed", _MOST_S)
    seconds = time.monotonic() - began
    if done.returncode != 0:
        raise RuntimeError(f"{verb.name} ends with {done.returncode} undisturbed: {done.stderr[-500:]}")
    expected = outputs(work / "undisturbed")
    for number in range(seed, seed + kills):
        out = work / f"killed-{number}"
        alive = _kill_after(scene.command(verb, out), scene.environment, random.Random(number).uniform(0, seconds))
        # a training is never gone on with, or thrown away, unasked
        more = ("--resume",) if (out / "run" / "run.json").exists() else ()
        again = scene.run(verb, out, _MOST_S, more)
        if again.returncode != 0:
            yield f"kill {number}: the rerun ends with {again.returncode}: {again.stderr.strip()[-300:]}"
        else:
            received = outputs(out)
            if verb.name == "export" and not alive:  # it was finished: the rerun is a version of its own
                received = {name: data for name, data in received.items() if not name.startswith("m/2/")}
            differing = sorted(n for n in {*expected, *received} if expected.get(n) != received.get(n))
            if differing and verb.name != "export":
                yield f"kill {number}: not as undisturbed: {', '.join(differing[:8])}"
        left = left_behind(scene, out)
        if left:
            yield f"kill {number}: left behind: {', '.join(left[:8])}"
        shutil.rmtree(out, ignore_errors=True)


def _kill_after(command: list[str], environment: dict[str, str], seconds: float) -> bool:
    """Whether there was still something to kill. The whole group dies: so does a batch job."""
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        process.wait(seconds)
        return False
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--verb", choices=VERBS, action="append", help="[default: all]")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    verbs = tuple(arguments.verb or VERBS)
    scene = make_scene(arguments.out.resolve(), verbs)
    bad = 0
    for name in verbs:
        found = list(run(scene, scene.verbs[name], arguments.kills, arguments.seed))
        print(f"{name}: {arguments.kills} kills, {len(found)} faults", flush=True)
        for text in found:
            print(f"  {text}", flush=True)
        bad += len(found)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
