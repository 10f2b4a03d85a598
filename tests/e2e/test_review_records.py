"""Verdicts of the page into records: only what was accepted, with the corrected cells, and only the pairs concerned."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fixtures.review import PhantomRecords
from virtual_stain.config import Config
from virtual_stain.counting.cells import CellClass
from virtual_stain.errors import ReviewPendingError
from virtual_stain.labels.store import TileStore
from virtual_stain.records.manifest import read_manifest, shard_paths
from virtual_stain.records.read import iterate_shard
from virtual_stain.records.show import show_record
from virtual_stain.records.verify import verify_records
from virtual_stain.review.correction import Correction, cell_names
from virtual_stain.review.store import ReviewStore
from virtual_stain.review.verdicts import Decision, Place, Verdict
from virtual_stain.workflows.build_records import BuildOptions, BuildResult, build_records


@pytest.fixture(autouse=True)
def _patient_key(phantom_records: PhantomRecords, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VSTAIN_PATIENT_KEY", str(phantom_records.key))


@pytest.fixture
def copy(phantom_records: PhantomRecords, tmp_path: Path) -> Path:
    return phantom_records.copy(tmp_path / "records")


def _accept_all(folder: Path, pairs: list[str], who: str = "Dr. A") -> list[Verdict]:
    verdicts = []
    for pair in pairs:
        with TileStore(folder / "work" / pair / "tiles.h5") as store:
            table = store.table()
        for i in range(len(table)):
            place = Place(pair, int(table["col"][i]), int(table["row"][i]))
            verdicts.append(Verdict(place, table.label_ids[i], Decision.ACCEPT, who))
    ReviewStore(folder / "review.sqlite").add(verdicts)
    return verdicts


def _build(records: PhantomRecords, folder: Path, **options: object) -> BuildResult:
    return build_records(records.pairs_csv, folder, Config(), BuildOptions(**options))  # type: ignore[arg-type]


def _records(folder: Path, pair: str) -> dict[tuple[int, int], dict]:
    entries = [p for p in read_manifest(folder).pairs if p.pair == pair]
    found = (r for path in shard_paths(folder, entries) for r in iterate_shard(path))
    return {(r["tile/col"], r["tile/row"]): r for r in found}


def _stamps(folder: Path, pair: str) -> dict[str, tuple[bytes, int]]:
    return {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.glob(f"{pair}-*.tfrecord")}


def test_a_later_verdict_changes_only_its_tile_and_only_its_pair_is_packed(
    phantom_records: PhantomRecords, copy: Path
) -> None:
    first, second = (p.pair for p in phantom_records.cohort)
    verdicts = _accept_all(copy, [first, second])
    _build(phantom_records, copy)
    before, others = _records(copy, first), _stamps(copy, second)
    assert len(before) + len(_records(copy, second)) == len(verdicts)
    assert all(r["review/reviewer"] == "Dr. A" and "cells/corrected" not in r for r in before.values())

    # reject one, correct another: its first positive becomes negative, a cell goes, one comes
    store = ReviewStore(copy / "review.sqlite")
    rejected = next(v for v in verdicts if v.place.pair == first)
    store.add([Verdict(rejected.place, rejected.label_id, Decision.REJECT, "Dr. B", "fold")])
    with TileStore(copy / "work" / first / "tiles.h5") as tiles:
        tile = next(
            t for t in tiles.tiles() if t.weight > 0 and (t.col, t.row) != (rejected.place.col, rejected.place.row)
        )
    names = cell_names(tile.cells)
    swapped, gone = names.index("positive"), names.index("negative")
    correction = Correction(((swapped, "negative"),), (gone,), ((100.5, 200.25, "positive"),))
    store.add([Verdict(Place(first, tile.col, tile.row), tile.label_id, Decision.ACCEPT, "Dr. A", "", 0, correction)])
    result = _build(phantom_records, copy)
    assert result.tiles_built == 0
    after = _records(copy, first)
    assert _stamps(copy, second) == others  # not even written again
    assert set(before) - set(after) == {(rejected.place.col, rejected.place.row)}
    changed = [key for key in after if after[key] != before[key]]
    assert changed == [(tile.col, tile.row)]
    record = after[changed[0]]
    assert record["tile/flags"] == ["corrected"]
    assert record["review/reviewer"] == "Dr. A"
    old = before[changed[0]]
    assert record["label/positive"] == old["label/positive"]  # one less, one more
    assert record["label/negative"] == old["label/negative"]  # one more, one less
    assert sum(record["cells/corrected"]) == 2
    assert (record["cells/x"][-1], record["cells/y"][-1], record["cells/positive"][-1]) == (100.5, 200.25, 1)
    assert record["label/id"] == old["label/id"]
    manifest = verify_records(copy).manifest
    entry = next(p for p in manifest.pairs if p.pair == first)
    used = [r for r in after.values() if r["label/weight"] > 0]
    assert (entry.positive, entry.negative) == tuple(
        sum(r[f"label/{k}"] for r in used) for k in ("positive", "negative")
    )

    # taken back, the shards are what they were, byte for byte
    store.undo("Dr. B")
    store.undo("Dr. A")
    _build(phantom_records, copy)
    assert _records(copy, first) == before


def test_a_correction_below_the_minimum_takes_the_ratio_out_of_training(
    phantom_records: PhantomRecords, copy: Path
) -> None:
    first = phantom_records.cohort[0].pair
    with TileStore(copy / "work" / first / "tiles.h5") as tiles:
        tile = next(t for t in tiles.tiles() if t.weight > 0)
    tumour = [i for i in range(len(tile.cells)) if tile.cells.tumour[i] and tile.cells.cell_class[i] != CellClass.OTHER]
    place = Place(first, tile.col, tile.row)
    correction = Correction(removed=tuple(tumour[49:]))
    ReviewStore(copy / "review.sqlite").add([Verdict(place, tile.label_id, Decision.ACCEPT, "A", "", 0, correction)])
    with pytest.raises(ReviewPendingError):
        _build(phantom_records, copy)
    record = _records(copy, first)[tile.col, tile.row]
    assert record["label/weight"] == 0
    assert record["tile/flags"] == ["few_cells", "corrected"]
    assert len(record["cells/x"]) == 49
    assert verify_records(copy).records == 1
    assert show_record(copy, record["image/filename"]).has_ihc, "the work folder holds the cells before the correction"


def test_stale_verdicts_of_the_page_are_told_and_never_applied(phantom_records: PhantomRecords, copy: Path) -> None:
    first, second = (p.pair for p in phantom_records.cohort)
    verdicts = _accept_all(copy, [first, second])
    old = Verdict(verdicts[0].place, "f" * 32, Decision.REJECT, "Dr. B", "an earlier label")
    gone = Verdict(Place(first, 900, 900), "e" * 32, Decision.ACCEPT, "Dr. B")
    ReviewStore(copy / "review.sqlite").add([old, gone])
    result = _build(phantom_records, copy)
    assert result.manifest.n_records == len(verdicts)
    stale = (copy / "review-stale.csv").read_text()
    assert "an earlier label" in stale
    assert ",900,900," in stale


def test_the_template_hands_corrected_cells_on(phantom_records: PhantomRecords, copy: Path) -> None:
    first = phantom_records.cohort[0].pair
    verdict = _accept_all(copy, [first])[0]
    correction = Correction(added=((5.0, 6.0, "positive"),))
    corrected = Verdict(verdict.place, verdict.label_id, Decision.ACCEPT, "Dr. A", "", 0, correction)
    ReviewStore(copy / "review.sqlite").add([corrected])
    with pytest.raises(ReviewPendingError):
        _build(phantom_records, copy)
    before = _records(copy, first)
    for path in copy.glob("review.sqlite*"):
        path.unlink()
    with pytest.raises(ReviewPendingError):
        _build(phantom_records, copy, verdicts=copy / "review-template.csv")
    assert _records(copy, first) == before
