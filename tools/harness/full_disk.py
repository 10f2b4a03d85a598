"""A disk that takes so many bytes and no more, under every writing verb: what was finished stays as it was.

    python tools/harness/full_disk.py OUT --verb score --points 20       (root: a small tmpfs is mounted)

A finished output lies on a small disk, and a part of it is missing. A file fills the disk up to a number of bytes that
goes from none to more than the missing part needs. The command must then end with 3 and a sentence, or with 0 where
there was room, and every finished file must be byte-equal to before. A table over all slides is written anew by each
run: it must be whole and keep the lines of what is finished. Ends with 1 where anything is not so.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tools.harness.scene import Scene, Verb, make_scene, outputs
from tools.harness.warm import Ended, Warm

VERBS = (
    "build-records",
    "fit",
    "score",
    "count",
    "export",
    "register",
    "review",
    "phantom",
    "evaluate",
    "panel",
    "warp",
    "info",
)
_PAGE = 4096
_TABLES = {"scores.csv": "slide", "summary.csv": "pair", "counts.csv": "name", "history.csv": "step"}
"""Written anew by each run, and the column that names a line."""


@contextlib.contextmanager
def small_disk(place: Path, size: int) -> Iterator[Path]:
    """A file system of `size` bytes. Raises OSError where this process may not mount one."""
    place.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], capture_output=True, text=True
    )
    if done.returncode != 0:
        raise OSError(done.stderr.strip())
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def run(scene: Scene, verb: Verb, points: int) -> Iterator[str]:
    """A sentence for every number of free bytes at which something was not as promised."""
    work = scene.folder / f"full-{verb.name}"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    with Warm(scene.environment, network=verb.network) as warm:
        done = warm.run(verb.arguments(work / "finished"))
        if done.returncode != 0:
            raise RuntimeError(f"{verb.name} ends with {done.returncode}: {done.stderr[-500:]}")
        whole, before_undo = _bytes_in(work / "finished"), _names(work / "finished")
        if verb.undo is not None:
            verb.undo(work / "finished")
            undone = whole - _bytes_in(work / "finished")
            need = max(undone or whole, 16 * _PAGE)
        else:  # nothing of it is finished; what lies beside it is
            beside = work / "finished" / "beside"
            (work / "finished").rename(work / "beside")
            (work / "finished").mkdir()
            (work / "beside").rename(beside)
            need = whole
        before, lines = outputs(work / "finished"), _finished_lines(work / "finished", before_undo)
        for point in range(points):
            free = round(need * 1.6 * point / max(1, points - 1)) // _PAGE * _PAGE
            with small_disk(work / "disk", 2 * whole + 400 * _PAGE + 8 * need) as disk:
                out = disk / "out"
                shutil.copytree(work / "finished", out)
                _fill(disk / "filler", disk, free)
                ended = warm.run(verb.arguments(out))
                found = [*_faults(ended, before, outputs(out)), *_lost_lines(lines, _lines(out))]
                yield from (f"{free} bytes free: {text}" for text in found)


def _faults(ended: Ended, before: dict[str, object], after: dict[str, object]) -> Iterator[str]:
    if ended.returncode not in (0, 3):
        yield f"exit {ended.returncode}: {ended.stderr.strip()[-300:]}"
    if "Traceback" in ended.stderr or "this is a bug" in ended.stderr:
        yield f"a traceback: {ended.stderr.strip()[-300:]}"
    if ended.returncode == 3 and "full" not in ended.stderr:
        yield f"does not say that the disk is full: {ended.stderr.strip()[-200:]}"
    changed = sorted(name for name, content in before.items() if after.get(name) != content)
    if changed:
        yield f"finished files changed or gone: {', '.join(changed[:8])}"


def _lines(out: Path) -> dict[str, dict[str, str]]:
    """Table → name of a line → the line, of every table that is written anew by each run.

    The reason is left out: it says whether the last run has made the line.
    """
    found: dict[str, dict[str, str]] = {}
    for path in sorted(out.rglob("*.csv")):
        if path.name not in _TABLES:
            continue
        text = path.read_text(encoding="utf-8")
        rows = list(csv.DictReader(text.splitlines()))
        key = _TABLES[path.name]
        whole = text.endswith("\n") and all(None not in row and None not in row.values() for row in rows)
        found[path.relative_to(out).as_posix()] = (
            {row[key]: repr({**row, "reason": ""}) for row in rows} if whole else {"half": repr(text[-80:])}
        )
    return found


def _finished_lines(out: Path, names: set[str]) -> dict[str, dict[str, str]]:
    """Without the lines of what was taken away. `names`: of all files before."""
    gone = {name.partition("/")[0].partition(".")[0] for name in names - _names(out)}
    return {table: {k: v for k, v in lines.items() if k not in gone} for table, lines in _lines(out).items()}


def _names(out: Path) -> set[str]:
    return {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}


def _lost_lines(before: dict[str, dict[str, str]], after: dict[str, dict[str, str]]) -> Iterator[str]:
    for name, lines in after.items():
        if "half" in lines:
            yield f"{name} is half: {lines['half']}"
    for name, lines in before.items():
        lost = sorted(key for key, line in lines.items() if after.get(name, {}).get(key) != line)
        if lost:
            yield f"{name}: the lines of {', '.join(lost[:8])} are lost or other ones"


def review(scene: Scene, points: int) -> Iterator[str]:
    """Verdicts on a full disk: those that were answered are there, the others are refused in a sentence."""
    from virtual_stain.errors import OutputError
    from virtual_stain.review.store import ReviewStore
    from virtual_stain.review.verdicts import Decision, Place, Verdict

    for point in range(points):
        with small_disk(scene.folder / "full-review", 400 * _PAGE) as disk:
            store = ReviewStore(disk / "review.sqlite")
            answered = 0
            _fill(disk / "filler", disk, point * 4 * _PAGE)
            try:
                for number in range(2000):
                    store.add([Verdict(Place("p", number, 0), "a" * 32, Decision.ACCEPT, "me", "x" * 200)])
                    answered += 1
                yield f"{point}: the disk was never full"
            except OutputError as error:
                if "review.sqlite" not in error.message:
                    yield f"{point}: the file is not named: {error.message}"
            (disk / "filler").unlink()
            stored = ReviewStore(disk / "review.sqlite").decisions()
            if len(stored) != answered:
                yield f"{point}: {answered} verdicts were answered, {len(stored)} are there"


def _fill(path: Path, disk: Path, free: int) -> None:
    """Leaves about `free` bytes on the disk."""
    with contextlib.suppress(OSError), path.open("wb") as stream:
        stream.write(bytes(max(0, shutil.disk_usage(disk).free - free)))


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--verb", choices=VERBS, action="append", help="[default: all]")
    parser.add_argument("--points", type=int, default=20)
    arguments = parser.parse_args()
    verbs = tuple(arguments.verb or VERBS)
    scene = make_scene(arguments.out.resolve(), tuple(v for v in verbs if v != "review"))
    bad = 0
    for name in verbs:
        found = list(
            review(scene, arguments.points) if name == "review" else run(scene, scene.verbs[name], arguments.points)
        )
        print(f"{name}: {arguments.points} points, {len(found)} faults", flush=True)
        for text in found:
            print(f"  {text}", flush=True)
        bad += len(found)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
