"""A disk that takes so many bytes and no more, under every writing verb: what was finished stays as it was.

    python tools/harness/full_disk.py OUT --verb score --points 20       (root: a small tmpfs is mounted)

A finished output lies on a small disk, and a part of it is missing. A file fills the disk up to a number of bytes that
goes from none to more than the missing part needs. The command must then end with 3 and a sentence, or with 0 where
there was room, and every finished file must be byte-equal to before. Ends with 1 where one is not.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tools.harness.scene import Scene, Verb, make_scene, outputs

VERBS = ("build-records", "fit", "score", "count", "export", "register", "review")
_PAGE = 4096


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
    done = scene.run(verb, work / "finished")
    if done.returncode != 0:
        raise RuntimeError(f"{verb.name} ends with {done.returncode}: {done.stderr[-500:]}")
    whole = _bytes_in(work / "finished")
    if verb.undo is not None:
        verb.undo(work / "finished")
        need = max(whole - _bytes_in(work / "finished"), 16 * _PAGE)
    else:  # nothing of it is finished; what lies beside it is
        beside = work / "finished" / "beside"
        (work / "finished").rename(work / "beside")
        (work / "finished").mkdir()
        (work / "beside").rename(beside)
        need = whole
    before = outputs(work / "finished")
    for point in range(points):
        free = round(need * 1.6 * point / max(1, points - 1)) // _PAGE * _PAGE
        with small_disk(work / "disk", 2 * whole + 400 * _PAGE + 8 * need) as disk:
            out = disk / "out"
            shutil.copytree(work / "finished", out)
            _fill(disk / "filler", disk, free)
            ended = scene.run(verb, out)
            yield from _faults(f"{free} bytes free", ended, before, outputs(out))


def _faults(
    where: str, ended: subprocess.CompletedProcess[str], before: dict[str, object], after: dict[str, object]
) -> Iterator[str]:
    if ended.returncode not in (0, 3):
        yield f"{where}: exit {ended.returncode}: {ended.stderr.strip()[-300:]}"
    if "Traceback" in ended.stderr or "this is a bug" in ended.stderr:
        yield f"{where}: a traceback: {ended.stderr.strip()[-300:]}"
    if ended.returncode == 3 and "full" not in ended.stderr:
        yield f"{where}: does not say that the disk is full: {ended.stderr.strip()[-200:]}"
    changed = sorted(name for name, content in before.items() if after.get(name) != content)
    if changed:
        yield f"{where}: finished files changed or gone: {', '.join(changed[:8])}"


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
