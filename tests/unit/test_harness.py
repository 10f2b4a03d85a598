"""The fuzzer as a test: a short run always, a long one when asked for."""

import sys
from pathlib import Path

import pytest

from tools.harness.fuzz import Target, project_targets, run, run_in_child
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
