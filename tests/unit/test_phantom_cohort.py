"""Cohorts on disk: deterministic, resumable, never mixed, and listed in pairs.csv."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.fixtures.phantoms import tiny_cohort
from virtual_stain.cli.main import main
from virtual_stain.config.phantom import PhantomSettings, settings_from_options
from virtual_stain.errors import ConfigError, OutputError
from virtual_stain.phantom.cohort import write_cohort

SMALL = PhantomSettings(size_mm=0.3, margin_mm=0.05, he_mpp=1.0, ihc_mpp=0.9, seed=11, pairs=2)


def _hashes(folder: Path) -> dict[str, str]:
    files = [*folder.glob("slides/*"), *folder.glob("truth/*/*"), folder / "pairs.csv"]
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def test_same_seed_same_bytes_whatever_the_number_of_pairs_and_processes(tmp_path: Path) -> None:
    write_cohort(tmp_path / "a", SMALL, jobs=1)
    write_cohort(tmp_path / "b", dataclasses.replace(SMALL, pairs=1), jobs=1)
    write_cohort(tmp_path / "b", SMALL, jobs=2)  # grows; p001 stays
    assert _hashes(tmp_path / "a") == _hashes(tmp_path / "b")


def test_another_seed_gives_other_slides(tmp_path: Path) -> None:
    write_cohort(tmp_path / "a", dataclasses.replace(SMALL, pairs=1))
    write_cohort(tmp_path / "b", dataclasses.replace(SMALL, pairs=1, seed=12))
    a, b = _hashes(tmp_path / "a"), _hashes(tmp_path / "b")
    assert a["slides/p001_he.tiff"] != b["slides/p001_he.tiff"]


def test_finished_pairs_are_kept_and_unfinished_ones_rendered_again(tmp_path: Path) -> None:
    write_cohort(tmp_path, SMALL)
    before = _hashes(tmp_path)
    times = {p: p.stat().st_mtime_ns for p in tmp_path.glob("slides/p001*")}
    # a kill in the middle of p002: slides half-way, no truth.json
    (tmp_path / "truth/p002/truth.json").unlink()
    (tmp_path / "slides/p002_ihc.tiff").rename(tmp_path / "slides/p002_ihc.tiff.tmp")
    write_cohort(tmp_path, SMALL)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.glob("slides/p001*")} == times
    assert _hashes(tmp_path) == before
    assert not list(tmp_path.glob("slides/*.tmp"))


def test_a_folder_of_other_settings_is_refused_unless_forced(tmp_path: Path) -> None:
    one = dataclasses.replace(SMALL, pairs=1)
    write_cohort(tmp_path, one)
    before = _hashes(tmp_path)
    other = dataclasses.replace(one, seed=99)
    with pytest.raises(OutputError, match="other settings"):
        write_cohort(tmp_path, other)
    assert _hashes(tmp_path) == before
    write_cohort(tmp_path, other, force=True)
    assert _hashes(tmp_path) != before


def test_pairs_csv_names_every_slide_relative_to_itself(tmp_path: Path) -> None:
    pairs = tiny_cohort(tmp_path, 2, size_mm=0.3, he_mpp=1.0, ihc_mpp=1.0, format="svs", marker="er")
    with (tmp_path / "pairs.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [r["pair"] for r in rows] == ["p001", "p002"]
    assert len({r["patient"] for r in rows}) == 2
    assert {r["marker"] for r in rows} == {"er"}
    assert (tmp_path / rows[1]["he"]) == pairs[1].he
    assert pairs[1].ihc.suffix == ".svs"


def test_command_writes_a_pair_and_prints_its_list(tmp_path: Path) -> None:
    options = ["--size-mm", "0.3", "--he-mpp", "1", "--ihc-mpp", "1", "--format", "ndpi", "--artefacts", "all", "-q"]
    result = CliRunner().invoke(main, ["phantom", "--out", str(tmp_path / "ö 1"), "--jobs", "1", *options])
    assert result.exit_code == 0, result.output
    assert result.output.strip().endswith("pairs.csv")
    assert (tmp_path / "ö 1/slides/p001_ihc.ndpi").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"artefacts": "pen,penn"}, "artefacts"),
        ({"pairs": 0}, "pairs"),
        ({"he_mpp": 40.0}, "he_mpp"),
        ({"size_mm": float("nan")}, "size_mm"),
        ({"marker": "melan-a"}, "marker"),
    ],
)
def test_impossible_options_are_refused_by_name(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings_from_options(options)
