"""SIGTERM, as Slurm and Docker send it, ends every verb like Ctrl-C; and machines that lack something."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tools.harness.scene import Scene, left_behind, make_scene

VERBS = ("register", "score", "fit", "export", "count", "build-records")
SLOW = [pytest.param(verb, marks=pytest.mark.slow) for verb in VERBS[1:]]
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")


BEGUN = {"score": "*.report.json", "fit": "run/run.json", "build-records": "work/*/registered.json"}
"""What shows that a verb is in the midst of its work; of the others the folder."""


def _ended(scene: Scene, command: list[str], out: Path, begun: str = "") -> tuple[int, str]:
    """(exit code, what was said) of a command that gets SIGTERM once `begun` is there, or `out` itself."""
    process = subprocess.Popen(command, env=scene.environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None and not _there(out, begun):
        time.sleep(0.02)
    time.sleep(0.0 if begun else 0.5)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    return process.returncode, said


def _there(out: Path, begun: str) -> bool:
    return next(out.glob(begun), None) is not None if begun else out.exists()


@pytest.mark.parametrize("name", ["register", *SLOW])
def test_sigterm_ends_a_verb_like_ctrl_c(tmp_path: Path, name: str) -> None:
    scene = make_scene(tmp_path, (name,))
    out = tmp_path / "out"
    code, said = _ended(scene, scene.command(scene.verbs[name], out), out, BEGUN.get(name, ""))
    assert code == 130, said
    assert "interrupted; finished work is kept" in said
    assert "Traceback" not in said
    assert not [text for text in left_behind(scene, out) if text.startswith(("tmp/", "process", "/dev/shm"))]
    if name in ("register", "score", "fit", "build-records"):
        assert list(out.rglob("run.json"))
    more = ("--resume",) if name == "fit" else ()  # a training is never gone on with unasked
    again = scene.run(scene.verbs[name], out, more=more)
    assert again.returncode == 0, again.stderr


def test_sigterm_ends_a_server(tmp_path: Path) -> None:
    pytest.importorskip("fastapi")
    from tests.fixtures.review import tiny_review

    scene = make_scene(tmp_path, ())
    folder = tiny_review(tmp_path / "records", pairs=1, tiles=2, tile_px=64)
    command = [sys.executable, "-c", "from virtual_stain.cli.main import run; run()"]
    command += ["review", str(folder), "--port", "0", "--no-browser"]
    code, said = _ended(scene, command, folder / "review.sqlite")
    assert code in (0, 130), said
    assert "Traceback" not in said


def test_a_machine_without_shared_memory_is_told(tmp_path: Path) -> None:
    """Processes need semaphores, which live in /dev/shm; the message says what does without."""
    code = """
import multiprocessing.synchronize as s
def refuse(*_, **__): raise OSError(38, "Function not implemented")
s.SemLock.__init__ = refuse
from virtual_stain.cli.main import run
run()
"""
    scene = make_scene(tmp_path, ("register",))
    arguments = scene.verbs["register"].arguments(tmp_path / "out")
    arguments[arguments.index("--jobs") + 1] = "2"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=scene.environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 1
    assert "/dev/shm" in done.stderr
    assert "--jobs 1 does without" in done.stderr
    assert "Traceback" not in done.stderr
    assert "this is a bug" not in done.stderr


@pytest.mark.skipif(not Path("/proc").exists(), reason="no such folder here")
def test_a_home_that_cannot_be_written_names_the_patient_key(tmp_path: Path) -> None:
    scene = make_scene(tmp_path, ("register",))
    toys = tmp_path / "toys" / "PAIRS.csv"
    command = [sys.executable, "-c", "from virtual_stain.cli.main import run; run()"]
    command += ["build-records", str(toys), "--out", str(tmp_path / "out"), "--accept-unreviewed", "--jobs", "1"]
    environment = {k: v for k, v in scene.environment.items() if k not in ("VSTAIN_PATIENT_KEY", "XDG_DATA_HOME")}
    environment["HOME"] = "/proc/none"
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 3
    assert "patient key" in done.stderr
    assert "VSTAIN_PATIENT_KEY" in done.stderr
    assert os.fspath(tmp_path / "out") not in done.stderr
