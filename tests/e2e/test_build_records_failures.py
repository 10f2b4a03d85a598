"""build-records and pairs that fail: they are left out with a reason, and no other is lost."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from tests.fixtures.built import ACCEPT, Built, outputs, pairs_table
from virtual_stain.config import Config, LabelSettings
from virtual_stain.errors import (
    BatchError,
    OutputError,
    RejectedError,
    SlideError,
)
from virtual_stain.records.verify import verify_records
from virtual_stain.workflows.build_records import BuildOptions, build_records

pytestmark = pytest.mark.usefixtures("key_of_built")


def test_one_bad_slide_does_not_stop_the_others(built: Built, copy: Path, tmp_path: Path) -> None:
    bad, ihc = tmp_path / "Mustermann.tiff", tmp_path / "ihc.tiff"
    data = built.cohort[0].he.read_bytes()
    bad.write_bytes(data[: len(data) // 3])
    shutil.copy(built.cohort[0].ihc, ihc)
    table = pairs_table(tmp_path, built.cohort, f"cut-off,Somebody,ki67,{bad},{ihc},2")
    with pytest.raises(BatchError, match="1 of 3 pairs failed") as caught:
        build_records(table, copy, Config(), ACCEPT)
    assert caught.value.exit_code == 6
    manifest = verify_records(copy).manifest
    assert len(manifest.pairs) == 2
    assert manifest.excluded[0].pair == "cut-off"
    assert "Mustermann" not in (copy / "manifest.json").read_text() + (copy / "run.json").read_text()
    outcomes = json.loads((copy / "run.json").read_text())["outcomes"]
    assert [o["ok"] for o in outcomes] == [True, True, False]


def test_every_pair_stands_in_a_table_and_on_a_page_with_the_failed_first(
    built: Built, copy: Path, tmp_path: Path
) -> None:
    """And --fail-fast leaves the records as they were: a pair that was not begun loses none."""
    bad, ihc, before = tmp_path / "Mustermann.tiff", tmp_path / "ihc.tiff", outputs(copy)
    for path in (bad, ihc):
        path.write_bytes(b"no slide")
    table = pairs_table(tmp_path, built.cohort, f"cut-off,Somebody,ki67,{bad},{ihc},2")
    lines = table.read_text().splitlines()
    table.write_text("\n".join([lines[0], lines[3], *lines[1:3]]) + "\n")
    stopping = dataclasses.replace(ACCEPT, fail_fast=True)
    with pytest.raises(BatchError, match="--fail-fast stopped the run") as caught:
        build_records(table, copy, Config(), stopping)
    assert caught.value.exit_code == 6
    assert outputs(copy) == before
    first, second = (p.pair for p in built.cohort)

    def states() -> dict[str, str]:
        with (copy / "records.csv").open(encoding="utf-8", newline="") as stream:
            return {r["pair"]: r["status"] for r in csv.DictReader(stream)}

    assert states() == {"cut-off": "failed", first: "pending", second: "pending"}
    with pytest.raises(BatchError):
        build_records(table, copy, Config(), ACCEPT)
    assert states() == {"cut-off": "failed", first: "ok", second: "ok"}
    page = (copy / "index.html").read_text()
    assert 0 < page.index(">cut-off<") < page.index(f">{first}<")
    assert f"work/{first}/overlay.jpg" in page
    assert "Mustermann" not in page + (copy / "records.csv").read_text()


def test_when_all_fail_the_error_is_their_own(built: Built, tmp_path: Path) -> None:
    bad = tmp_path / "bad.tiff"
    bad.write_bytes(built.cohort[0].he.read_bytes()[:5000])
    table = pairs_table(tmp_path, [], f"one,P,ki67,{bad},{built.cohort[0].ihc},")
    with pytest.raises(SlideError):
        build_records(table, tmp_path / "out", Config(), BuildOptions(accept_unreviewed=True))
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert (tmp_path / "out" / "run.json").exists()


def test_slides_of_different_tissue_are_rejected(built: Built, tmp_path: Path) -> None:
    row = f"mixed,P,ki67,{built.cohort[0].he},{built.cohort[1].ihc},"
    with pytest.raises(RejectedError, match="cannot be registered") as caught:
        build_records(pairs_table(tmp_path, [], row), tmp_path / "out", Config(), BuildOptions(accept_unreviewed=True))
    assert caught.value.exit_code == 3
    assert (tmp_path / "out" / "work" / "mixed" / "overlay.jpg").exists()
    assert (tmp_path / "out" / "work" / "mixed" / "registration.json").exists()


def test_another_runs_folder_is_refused_and_force_takes_it_over(built: Built, copy: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"labels\.min_tile_cells was 50 and is now 60"):
        build_records(built.pairs_csv, copy, Config(labels=LabelSettings(min_tile_cells=60)), ACCEPT)
    fewer = pairs_table(tmp_path, built.cohort[:1])
    with pytest.raises(OutputError, match="is no longer in the table"):
        build_records(fewer, copy, Config(), ACCEPT)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "manifest.json").write_text("{}")
    with pytest.raises(OutputError, match="already holds the output of another run"):
        build_records(fewer, foreign, Config(), ACCEPT)
    assert [p.name for p in foreign.iterdir() if p.name != ".lock"] == ["manifest.json"]
    assert outputs(copy) == outputs(built.out)
    done = build_records(fewer, copy, Config(), BuildOptions(accept_unreviewed=True, force=True, jobs=2))
    assert done.tiles_built == done.manifest.n_records == verify_records(copy).records
    assert (copy / "review-template.csv").exists()
