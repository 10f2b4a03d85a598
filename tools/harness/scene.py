"""What the harnesses work on: small inputs of every writing verb, their commands, and what must come out equal."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tools.harness.warm import ends_with

ROOT = Path(__file__).parents[2]
VSTAIN = (sys.executable, "-c", "from virtual_stain.cli.main import run; run()")
_OF_THE_RUN = (
    ".done.jsonl",
    "run.json",
    "scores.csv",
    ".lock",
    "summary.html",
    "index.html",
    "summary.csv",
    "history.csv",
    "run.txt",
)
"""Files that tell of the last run, with its times: they differ from run to run."""


_SMALL_TILES = ("--set", "tiling.window_um=153.6", "--set", "tiling.tile_px=512")
_BEFORE = frozenset(Path("/dev/shm").glob("sem.mp-*"))
"""Of other people's processes."""


@dataclass(frozen=True)
class Verb:
    """A command that writes."""

    name: str
    arguments: Callable[[Path], list[str]]
    """Of the output folder."""
    undo: Callable[[Path], None] | None = None
    """Takes a part of a finished output away, so that the same command has something to write again."""
    network: bool = True
    """Whether it needs TensorFlow."""


@dataclass(frozen=True)
class Scene:
    """Inputs in a folder."""

    folder: Path
    verbs: dict[str, Verb]

    @property
    def environment(self) -> dict[str, str]:
        """With a temporary folder of its own, in which nothing may stay."""
        own = {"PYTHONPATH": str(ROOT), "TMPDIR": str(self.temporary), "TF_CPP_MIN_LOG_LEVEL": "3"}
        return os.environ | own | {"CUDA_VISIBLE_DEVICES": "", "VSTAIN_PATIENT_KEY": str(self.folder / "key")}

    @property
    def temporary(self) -> Path:
        path = self.folder / "tmp"
        path.mkdir(exist_ok=True)
        return path

    def command(self, verb: Verb, out: Path) -> list[str]:
        return [*VSTAIN, *verb.arguments(out)]

    def run(
        self, verb: Verb, out: Path, timeout_s: float = 600, more: Sequence[str] = ()
    ) -> subprocess.CompletedProcess[str]:
        """To its end; the exit code is the caller's to judge."""
        return subprocess.run(
            [*self.command(verb, out), *more],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            preexec_fn=ends_with(os.getpid()),
        )


def make_scene(folder: Path, verbs: tuple[str, ...]) -> Scene:
    """Makes the inputs of these verbs, where they are not there yet."""
    from tests.fixtures.models import tissue_slide, write_tiny_bundle
    from tests.fixtures.phantoms import tiny_cohort
    from tests.fixtures.records import tiny_records
    from tests.fixtures.registration import toy_pair, toy_transform
    from tests.fixtures.training import TINY, tiny_run

    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "key").exists():
        (folder / "key").write_text("0123456789abcdef0123456789abcdef")
        (folder / "key").chmod(0o600)
    sets = [part for override in (*TINY, "training.checkpoint_minutes=0") for part in ("--set", override)]
    found: dict[str, Verb] = {}
    if "score" in verbs:
        _once(folder / "slides", lambda to: [tissue_slide(_dir(to) / f"s{i}.tiff", 120 + 20 * i) for i in range(3)])
        _once(folder / "model", write_tiny_bundle)
        arguments = ["score", str(folder / "slides"), "--model", str(folder / "model"), "--jobs", "1", "-q", "--out"]
        found["score"] = Verb("score", _with(arguments), lambda out: (out / "s2.report.json").unlink())
    if "register" in verbs:
        _once(folder / "toys", lambda to: _toys(to, toy_pair, toy_transform))
        arguments = ["register", str(folder / "toys" / "PAIRS.csv"), "--jobs", "1", "-q", "--out"]
        found["register"] = Verb("register", _with(arguments), lambda out: shutil.rmtree(out / "b"), network=False)
    if "fit" in verbs or "export" in verbs:
        _once(folder / "records", lambda to: tiny_records(to, tile_px=64, window_um=19.2))
        found["fit"] = Verb("fit", lambda out: ["fit", str(folder / "records"), "--out", str(out / "run"), "-q", *sets])
    if "export" in verbs:
        _once(folder / "trained", tiny_run)
        arguments = ["export", str(folder / "trained" / "run"), "-q", "--out"]
        found["export"] = Verb("export", lambda out: [*arguments, str(out / "m")])
    if "count" in verbs or "build-records" in verbs:
        _once(folder / "cohort", lambda to: tiny_cohort(to, pairs=2, size_mm=0.45))
        ihc = sorted((folder / "cohort" / "slides").glob("*ihc*"))[0]
        arguments = ["count", str(ihc), "--marker", "ki67", "--jobs", "1", "-q", "--out"]
        found["count"] = Verb("count", _with(arguments), lambda out: (out / "cells.csv").unlink(), network=False)
    if "build-records" in verbs:
        pairs = folder / "cohort" / "pairs.csv"
        arguments = ["build-records", str(pairs), "--accept-unreviewed", "--jobs", "1", "-q", *_SMALL_TILES, "--out"]
        found["build-records"] = Verb("build-records", _with(arguments), _without_tiles)
    found |= _small_verbs(folder, verbs)
    return Scene(folder, {name: found[name] for name in verbs})


def _small_verbs(folder: Path, verbs: tuple[str, ...]) -> dict[str, Verb]:
    """Verbs that write a few files in one go: a rerun writes over them, or has nothing to do."""
    from tests.fixtures.models import tissue_slide
    from tests.fixtures.registration import plain_registration, toy_transform
    from tests.fixtures.reports import scored
    from tests.fixtures.training import tiny_run
    from virtual_stain.files import write_json
    from virtual_stain.registration.store import write_registration
    from virtual_stain.report.report import report_json

    slide = folder / "slide" / "s.tiff"
    if "phantom" in verbs or "info" in verbs:
        _once(slide.parent, lambda to: tissue_slide(_dir(to) / slide.name, 120))
    if "evaluate" in verbs:
        _once(folder / "trained", tiny_run)
    if "panel" in verbs:
        _once(folder / "report", lambda to: write_json(_dir(to) / "s.report.json", report_json(scored(), {}, {})))
    if "warp" in verbs:
        _once(folder / "map", lambda to: write_registration(plain_registration(toy_transform(40, elastic_px=3.0)), to))
        points = "".join(f"{i % 400},{i // 400}\n" for i in range(5000))
        _once(folder / "points", lambda to: (_dir(to) / "points.csv").write_text("x,y\n" + points))
    phantom = ["phantom", "--pairs", "2", "--size-mm", "0.3", "-q", "--out"]
    return {
        "phantom": Verb("phantom", _with(phantom), lambda out: shutil.rmtree(out / "truth" / "p002"), network=False),
        "evaluate": Verb(
            "evaluate",
            _with(["evaluate", str(folder / "trained" / "run"), str(folder / "trained" / "records"), "-q", "--out"]),
            _nothing,
        ),
        "panel": Verb(
            "panel", _with(["panel", str(folder / "report" / "s.report.json"), "-q", "--out"]), _nothing, network=False
        ),
        "warp": Verb(
            "warp",
            lambda out: ["warp", str(folder / "map"), str(folder / "points" / "points.csv"), "-o", str(out / "w.csv")],
            _nothing,
            network=False,
        ),
        "info": Verb("info", _with(["info", str(slide), "-q", "--out"]), _nothing, network=False),
    }


def _nothing(out: Path) -> None:
    """The rerun writes every file again."""


def _with(arguments: list[str]) -> Callable[[Path], list[str]]:
    return lambda out: [*arguments, str(out)]


def _once(path: Path, make: Callable[[Path], object]) -> None:
    if not path.exists():
        half = path.with_name(f"{path.name}.half")
        shutil.rmtree(half, ignore_errors=True)
        make(half)
        half.rename(path)


def _dir(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


def _toys(folder: Path, toy_pair: Any, toy_transform: Any) -> None:
    rows = ["pair,patient,marker,he,ihc,he_mpp,ihc_mpp"]
    for name, seed in (("a", 1), ("b", 40)):
        toy_pair(_dir(folder / f"slides-{name}"), toy_transform(25, elastic_px=2.0), seed=seed)
        rows.append(f"{name},P{seed},ki67,slides-{name}/he.png,slides-{name}/ihc.png,2,2")
    (folder / "PAIRS.csv").write_text("\n".join(rows) + "\n")


def _without_tiles(out: Path) -> None:
    sorted((out / "work").glob("*/tiles.h5"))[-1].unlink()


def outputs(out: Path) -> dict[str, object]:
    """Name → content, of every finished file: as bytes; what holds times or is no plain bytes, by its values."""
    found: dict[str, object] = {}
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        if not path.is_file() or path.name in _OF_THE_RUN or "tensorboard" in name or ".partial" in name:
            continue
        found[name] = _content(path)
    return found


def _content(path: Path) -> object:
    if path.name.endswith("report.json"):
        value = json.loads(path.read_bytes())
        for name in ("timing", "outputs"):
            value.pop(name, None)
        return json.dumps(value, sort_keys=True)
    if path.name in ("best.h5", "last.h5"):
        with h5py.File(path) as file:
            return {name: data.tobytes() for name, data in _arrays(file)}
    return path.read_bytes()


def _arrays(group: Any) -> Iterator[tuple[str, Any]]:
    for item in group.values():
        if isinstance(item, h5py.Group):
            yield from _arrays(item)
        else:
            yield item.name, np.asarray(item[()])


def left_behind(scene: Scene, out: Path) -> list[str]:
    """Files that only a run under way has, and processes of it; empty when nothing is left."""
    found = [
        str(path.relative_to(out))
        for path in sorted(out.rglob("*"))
        if path.name.endswith((".tmp", ".part", ".half")) or ".partial" in path.name or path.name == "parts"
    ]
    found += [f"tmp/{path.name}" for path in scene.temporary.iterdir()]
    found += [f"process {pid}" for pid in processes_of(out)]
    found += [f"/dev/shm/{path.name}" for path in _semaphores()]
    return found


def processes_of(out: Path) -> list[int]:
    """Processes whose command line names the folder; this one left out."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if str(out).encode() in command.split(b"\0"):
                found.append(int(entry.name))
    return found


def _semaphores() -> list[Path]:
    """Orphans: made since this harness began, and mapped by no process that lives."""
    found = [path for path in Path("/dev/shm").glob("sem.mp-*") if path not in _BEFORE]
    mapped = b""
    for entry in Path("/proc").iterdir() if found else ():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                mapped += (entry / "maps").read_bytes()
    return [path for path in found if path.exists() and path.name.encode() not in mapped]
