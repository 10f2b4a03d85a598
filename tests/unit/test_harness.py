"""The fuzzer as a test: a short run always, a long one when asked for."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tools.harness import attacks, full_disk, kill
from tools.harness.fuzz import Target, project_targets, run, run_in_child
from tools.harness.scene import make_scene
from virtual_stain.errors import InputError


def test_the_fuzzer_finds_what_it_is_for(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("12345")
    crashes = Target("crashes", tmp_path / "x.txt", lambda path: int(path.read_bytes()))
    found = list(run([crashes], tmp_path, 40))
    assert {f.what.split(":")[0] for f in found} >= {"ValueError", "another number in silence"}

    def careful(path: Path) -> str:
        if path.read_bytes() != b"12345":
            raise InputError("changed")
        return "12345"

    assert list(run([Target("careful", tmp_path / "x.txt", careful)], tmp_path, 40)) == []


@pytest.mark.parametrize("runs", [120, pytest.param(3000, marks=pytest.mark.slow)])
def test_damaged_files_are_answered_with_a_sentence(tmp_path: Path, runs: int) -> None:
    limit = sys.getrecursionlimit()
    assert list(run(project_targets(tmp_path), tmp_path, runs)) == []
    assert sys.getrecursionlimit() == limit


@pytest.mark.slow
def test_files_from_elsewhere_are_answered_with_a_sentence(tmp_path: Path) -> None:
    """A thousand files of every kind, read in a child: none of them ends it, and none takes a minute or 4 GB."""
    assert list(run_in_child("tools.harness.fuzz:foreign_targets", tmp_path, 1000)) == []


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> attacks.Place:
    pytest.importorskip("fastapi")
    return attacks.make_place(tmp_path_factory.mktemp("attacked"))


@pytest.mark.parametrize("attack", attacks.ATTACKS, ids=lambda attack: attack.__name__)
def test_no_attack_gets_through(place: attacks.Place, attack) -> None:
    assert list(attack(place)) == []


_DISK = pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root may mount a small disk")


@_DISK
def test_no_verdict_that_was_answered_is_lost_on_a_full_disk(tmp_path: Path) -> None:
    assert _found(lambda: full_disk.review(make_scene(tmp_path, ()), 3)) == []


@_DISK
@pytest.mark.parametrize("points", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_what_register_has_finished_stays_on_a_full_disk(tmp_path: Path, points: int) -> None:
    scene = make_scene(tmp_path, ("register",))
    assert _found(lambda: full_disk.run(scene, scene.verbs["register"], points)) == []


@_DISK
@pytest.mark.slow
@pytest.mark.parametrize("name", [v for v in full_disk.VERBS if v not in ("review", "register")])
def test_what_is_finished_stays_on_a_full_disk(tmp_path: Path, name: str) -> None:
    scene = make_scene(tmp_path, (name,))
    assert _found(lambda: full_disk.run(scene, scene.verbs[name], 20)) == []


@pytest.mark.parametrize("kills", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_register_is_as_undisturbed_after_a_kill(tmp_path: Path, kills: int) -> None:
    scene = make_scene(tmp_path, ("register",))
    assert list(kill.run(scene, scene.verbs["register"], kills)) == []


@pytest.mark.parametrize("kills", [2, pytest.param(40, marks=pytest.mark.slow)])
def test_no_verdict_that_was_answered_is_lost_by_a_kill(tmp_path: Path, kills: int) -> None:
    assert list(kill.kill_review(make_scene(tmp_path, ()), kills)) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", [v for v in kill.VERBS if v not in ("register", "review")])
def test_a_verb_is_as_undisturbed_after_kills(tmp_path: Path, name: str) -> None:
    scene = make_scene(tmp_path, (name,))
    assert list(kill.run(scene, scene.verbs[name], 20)) == []


def _found(run) -> list[str]:
    """Containers may take the right to mount from root, too."""
    try:
        return list(run())
    except OSError as error:
        pytest.skip(f"no small disk can be mounted here: {error}")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parent")
def test_a_killed_harness_left_its_command_running(tmp_path: Path) -> None:
    """The harness starts a process that waits, which forks the command: kill −9 of the first ends all three."""
    code = """
import os, subprocess, sys, time
from tools.harness.warm import ends_with
inner = (
    "import os, time; from tools.harness.warm import ends_with; bind = ends_with(os.getpid()); pid = os.fork();"
    "os.setsid() or bind() if pid == 0 else print(pid, flush=True); time.sleep(100)"
)
subprocess.Popen([sys.executable, "-c", inner], preexec_fn=ends_with(os.getpid()))
time.sleep(100)
"""
    root = str(Path(__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": root}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment, text=True) as harness:
        assert harness.stdout is not None
        command = int(harness.stdout.readline())
        assert Path(f"/proc/{command}").exists()
        harness.kill()
    deadline = time.monotonic() + 20
    while _is_alive(command) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _is_alive(command)


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False
