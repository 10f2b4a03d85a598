"""kill -9 in the middle of every verb, again and again, then to the end: is anything lost, half, or left behind?

    python tools/harness/kill.py OUT --verb score --kills 30 --seed 0

One folder is worked on by a command that is killed several times in a row, then runs to its end. Its outputs are
compared with those of a run that nobody disturbed. The moments are drawn with a fixed seed, in processor seconds. Every
other kill takes the process alone, as a system without memory does, and every other one its whole group, as a batch
system does. Of `review`, every verdict that was answered must be there once. Ends with 1 where anything is not so.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tools.harness.scene import Scene, Verb, left_behind, make_scene, outputs
from tools.harness.verdicts import kill_review
from tools.harness.warm import Ended, Warm, alive_in_session

VERBS = ("review", "score", "register", "fit", "count", "build-records", "export")
CHAIN = 5
"""Kills in a row before the run that ends."""
_PATIENCE_S = 60.0
"""In which a process that has lost its parent must end."""


def run(scene: Scene, verb: Verb, kills: int, seed: int = 0) -> Iterator[str]:
    """A sentence for everything that was not as after the undisturbed run."""
    work = scene.folder / f"kill-{verb.name}"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    with Warm(scene.environment, network=verb.network) as warm:
        done = warm.run(verb.arguments(work / "undisturbed"))
        if done.returncode != 0:
            raise RuntimeError(f"{verb.name} ends with {done.returncode} undisturbed: {done.stderr[-500:]}")
        expected = outputs(work / "undisturbed")
        for first in range(seed, seed + kills, CHAIN):
            out = work / f"killed-{first}"
            for number in range(first, min(first + CHAIN, seed + kills)):
                rng = random.Random(number)
                killed = warm.run(
                    _command(verb, out), kill_after_cpu_s=rng.uniform(0, done.cpu_s / 2), group=number % 2 == 0
                )
                yield from (f"kill {number}: {text}" for text in _lived_on(killed))
            yield from (f"kills from {first}: {text}" for text in _as_undisturbed(scene, verb, warm, out, expected))
            shutil.rmtree(out, ignore_errors=True)


def _command(verb: Verb, out: Path) -> list[str]:
    # a training is never gone on with, or thrown away, unasked
    more = ["--resume"] if verb.name == "fit" and (out / "run" / "run.json").exists() else []
    return [*verb.arguments(out), *more]


def _lived_on(killed: Ended) -> Iterator[str]:
    if killed.returncode not in (0, -9):
        yield f"it ended by itself, with {killed.returncode}: {killed.stderr.strip()[-300:]}"
    deadline = time.monotonic() + _PATIENCE_S
    while alive_in_session(killed.pid):
        if time.monotonic() > deadline:
            yield f"processes live on: {alive_in_session(killed.pid)}"
            break
        time.sleep(0.05)
    for pid in alive_in_session(killed.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 9)


def _as_undisturbed(scene: Scene, verb: Verb, warm: Warm, out: Path, expected: dict[str, object]) -> Iterator[str]:
    ended = warm.run(_command(verb, out))
    if ended.returncode != 0:
        yield f"the rerun ends with {ended.returncode}: {ended.stderr.strip()[-300:]}"
        return
    received = outputs(out)
    if verb.name == "export":
        yield from _half_versions(out)
    else:
        differing = sorted(n for n in {*expected, *received} if expected.get(n) != received.get(n))
        if differing:
            yield f"not as undisturbed: {', '.join(differing[:8])}"
    left = left_behind(scene, out)
    if left:
        yield f"left behind: {', '.join(left[:8])}"


def _half_versions(out: Path) -> Iterator[str]:
    """Every version must be whole by its own card. A graph is not written to the same bytes twice, and a run that was
    killed at its very end leaves a finished version beside that of the rerun."""
    from virtual_stain.errors import VirtualStainError
    from virtual_stain.exporting.bundle import verify_bundle

    versions = sorted(path for path in (out / "m").iterdir() if path.name.isdigit())
    if not versions:
        yield "no version of the model"
    for version in versions:
        try:
            verify_bundle(version)
        except VirtualStainError as error:
            yield f"version {version.name}: {error.message}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--verb", choices=VERBS, action="append", help="[default: all]")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    verbs = tuple(arguments.verb or VERBS)
    scene = make_scene(arguments.out.resolve(), tuple(v for v in verbs if v != "review"))
    bad = 0
    for name in verbs:
        run_it = kill_review(scene, arguments.kills, arguments.seed) if name == "review" else None
        found = list(run_it or run(scene, scene.verbs[name], arguments.kills, arguments.seed))
        print(f"{name}: {arguments.kills} kills, {len(found)} faults", flush=True)
        for text in found:
            print(f"  {text}", flush=True)
        bad += len(found)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
