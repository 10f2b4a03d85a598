"""build-records and people's verdicts: nothing is taken unasked, and no older manifest vouches for what changed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from tests.fixtures.built import ACCEPT, Built, outputs
from virtual_stain.config import Config
from virtual_stain.errors import (
    ReviewPendingError,
)
from virtual_stain.records.manifest import read_manifest, shard_paths
from virtual_stain.records.read import iterate_shard
from virtual_stain.records.verify import verify_records
from virtual_stain.registration.result import Verdict
from virtual_stain.registration.store import read_registration, write_registration
from virtual_stain.reuse import file_hashes
from virtual_stain.workflows.build_records import BuildOptions, build_records

pytestmark = pytest.mark.usefixtures("key_of_built")


def test_without_verdicts_nothing_is_taken_and_the_way_out_is_told(built: Built, copy: Path) -> None:
    before = outputs(copy)
    with pytest.raises(ReviewPendingError, match=r"2 of 2 pairs have tiles that nobody has reviewed") as caught:
        build_records(built.pairs_csv, copy, Config(), BuildOptions(jobs=1))
    assert caught.value.exit_code == 4
    assert "--verdicts" in str(caught.value)
    assert outputs(copy) == before  # the older manifest still vouches for its shards
    rows = (copy / "review-template.csv").read_text().splitlines()
    assert rows[0] == "pair,col,row,label_id,verdict,reviewer,reason"
    assert len(rows) - 1 == read_manifest(copy).n_records


def test_an_old_manifest_stayed_when_every_label_had_changed_and_waited_for_review(built: Built, copy: Path) -> None:
    for pair in built.cohort:
        packed = copy / "work" / pair.pair / "packed.json"
        record = json.loads(packed.read_text())
        record["made_from"]["tiles"] = "of other slides"
        packed.write_text(json.dumps(record))
    with pytest.raises(ReviewPendingError):
        build_records(built.pairs_csv, copy, Config(), BuildOptions(jobs=1))
    assert not (copy / "manifest.json").exists()
    assert (copy / "manifest.outdated.json").exists()
    assert list(copy.glob("*.tfrecord"))  # nothing is lost before there is something new
    build_records(built.pairs_csv, copy, Config(), ACCEPT)
    assert outputs(copy) == outputs(built.out)
    assert not (copy / "manifest.outdated.json").exists()


def test_an_old_manifest_kept_the_tiles_of_a_pair_that_a_person_had_rejected(built: Built, copy: Path) -> None:
    """The other pair waited for its review, so no new manifest was written and the old one went on vouching."""
    header, *rows = (copy / "review-template.csv").read_text().splitlines()
    first = [r.removesuffix(",,,") for r in rows if r.startswith(built.cohort[0].pair + ",")]
    verdicts = copy.parent / "verdicts.csv"
    verdicts.write_text("\n".join([header, *(f"{r},reject,Dr. X," for r in first)]) + "\n")
    with pytest.raises(ReviewPendingError, match="1 of 2 pairs"):
        build_records(built.pairs_csv, copy, Config(), BuildOptions(verdicts=verdicts))
    assert not (copy / "manifest.json").exists()
    assert (copy / "manifest.outdated.json").exists()
    build_records(built.pairs_csv, copy, Config(), BuildOptions(verdicts=verdicts, accept_unreviewed=True))
    assert [p.pair for p in verify_records(copy).manifest.pairs] == [built.cohort[1].pair]
    assert not (copy / "manifest.outdated.json").exists()


def test_only_accepted_tiles_become_records(built: Built, copy: Path, tmp_path: Path) -> None:
    header, *rows = (copy / "review-template.csv").read_text().splitlines()
    first = [r.removesuffix(",,,") for r in rows if r.startswith(built.cohort[0].pair + ",")]
    second = [r.removesuffix(",,,") for r in rows if r.startswith(built.cohort[1].pair + ",")]
    stale = second[0].rsplit(",", 1)[0] + "," + "f" * 32
    filled = [f"{first[0]},accept,Dr. X,", f"{first[1]},reject,Dr. X,fold", f"{first[2]},skip,Dr. X,"]
    filled += [f"{first[3]},accept,Dr. Y,", f"{stale},accept,Dr. X,"]
    verdicts = tmp_path / "verdicts.csv"
    verdicts.write_text("\n".join([header, *filled]) + "\n")
    with pytest.raises(ReviewPendingError, match="1 of 2 pairs"):
        build_records(built.pairs_csv, copy, Config(), BuildOptions(verdicts=verdicts))
    manifest = verify_records(copy).manifest
    assert [p.pair for p in manifest.pairs] == [built.cohort[0].pair]
    assert not manifest.accept_unreviewed
    assert [(e.pair, e.reason) for e in manifest.excluded] == [(built.cohort[1].pair, "no tile has a verdict yet")]
    records = [r for path in shard_paths(copy, manifest.pairs) for r in iterate_shard(path)]
    assert [r["label/id"] for r in records] == [first[0].split(",")[3], first[3].split(",")[3]]
    assert [r["review/reviewer"] for r in records] == ["Dr. X", "Dr. Y"]
    assert {p.name for p in copy.glob("*.tfrecord")} == {s.file for s in manifest.pairs[0].shards}
    assert len((copy / "review-stale.csv").read_text().splitlines()) == 2
    assert "accept,Dr. X" in (copy / "review-template.csv").read_text()


def test_the_waiver_does_not_cover_an_uncertain_registration(built: Built, copy: Path) -> None:
    folder = copy / "work" / built.cohort[1].pair
    write_registration(dataclasses.replace(read_registration(folder), verdict=Verdict.REVIEW), folder)
    record = json.loads((folder / "registered.json").read_text())
    record["files"] = file_hashes(folder, record["files"])
    (folder / "registered.json").write_text(json.dumps(record))
    with pytest.raises(ReviewPendingError, match=built.cohort[1].pair):
        build_records(built.pairs_csv, copy, Config(), ACCEPT)
    manifest = verify_records(copy).manifest
    assert [p.pair for p in manifest.pairs] == [built.cohort[0].pair]
    assert "its registration is uncertain" in manifest.excluded[0].reason
