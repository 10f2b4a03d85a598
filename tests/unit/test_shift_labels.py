"""The control experiment on registration errors: labels moved beside their tiles."""

import dataclasses

import numpy as np
import pytest

from tests.fixtures.records import tiny_records
from tools.shift_labels import shift_labels, shifted_pair
from virtual_stain.dataset.folds import plan_folds
from virtual_stain.errors import InputError
from virtual_stain.records.manifest import read_manifest, shard_paths, write_manifest
from virtual_stain.records.read import iterate_shard
from virtual_stain.records.schema import problems_of
from virtual_stain.records.verify import verify_records


def records_of(folder):
    return [r for p in shard_paths(folder, read_manifest(folder).pairs) for r in iterate_shard(p)]


@pytest.mark.parametrize("marker", ["ki67", "her2"])
def test_no_shift_changes_nothing_and_a_shift_moves_whole_pairs(tmp_path, marker):
    tiny_records(tmp_path / "r", tile_px=64, window_um=19.2, patients=3, marker=marker)
    assert shift_labels(tmp_path / "r", tmp_path / "zero", 0.0) == 2, "the test fold keeps its labels"
    for a, b in zip(records_of(tmp_path / "r"), records_of(tmp_path / "zero"), strict=True):
        assert a["label/positive"] == b["label/positive"]
        np.testing.assert_allclose(a["cells/x"], b["cells/x"], atol=1e-3)
        assert a.get("cells/intensity") == b.get("cells/intensity")
    shift_labels(tmp_path / "r", tmp_path / "far", 5.0)
    changed = [
        (a["tile/pair"], a["cells/x"] != b["cells/x"])
        for a, b in zip(records_of(tmp_path / "r"), records_of(tmp_path / "far"), strict=True)
    ]
    test_pairs = {p.pair for p in read_manifest(tmp_path / "r").pairs_in([0])}
    assert {pair for pair, moved in changed if moved} == {pair for pair, _ in changed} - test_pairs
    assert verify_records(tmp_path / "far").records == len(changed)


def test_cells_go_to_the_neighbour_by_the_whole_window(tmp_path):
    tiny_records(tmp_path, tile_px=64, window_um=19.2, patients=3, tiles_per_pair=4, few_cells_every=0)
    tiles = records_of(tmp_path)[:4]  # one row of four
    moved = shifted_pair(tiles, np.array([19.2, 0.0]), 20)
    assert moved[0]["label/weight"] == 0.0, "nothing lies to its left"
    assert moved[0]["tile/flags"] == ["few_cells"]
    for own, left in zip(moved[1:], tiles[:-1], strict=True):
        assert own["label/positive"] == left["label/positive"]
        assert own["label/negative"] == left["label/negative"]
        assert own["image/encoded"] != left["image/encoded"]


def test_a_tile_that_is_no_label_for_another_reason_stays_none(tmp_path):
    tiny_records(tmp_path, tile_px=64, window_um=19.2, patients=3, tiles_per_pair=4, few_cells_every=0)
    tiles = records_of(tmp_path)[:4]
    tiles[2] |= {"tile/flags": ["few_cells", "poor_overlap"], "label/weight": 0.0}
    tiles[3] |= {"tile/flags": ["few_cells"], "label/weight": 0.0}
    moved = shifted_pair(tiles, np.array([19.2, 0.0]), 20)
    assert [t["label/weight"] for t in moved] == [0.0, 1.0, 0.0, 1.0]
    assert moved[2]["tile/flags"] == ["poor_overlap"]


def test_a_persons_corrections_travel_with_the_cells(tmp_path):
    tiny_records(tmp_path, tile_px=64, window_um=19.2, patients=3, tiles_per_pair=4, few_cells_every=0)
    tiles = records_of(tmp_path)[:4]
    tiles[0] |= {"tile/flags": ["corrected"], "cells/corrected": [1] + [0] * (len(tiles[0]["cells/x"]) - 1)}
    moved = shifted_pair(tiles, np.array([19.2, 0.0]), 20)
    assert ["cells/corrected" in t for t in moved] == [False, True, False, False]
    assert ["corrected" in t["tile/flags"] for t in moved] == [False, True, False, False]
    assert sum(moved[1]["cells/corrected"]) == 1
    assert [problems_of(t) for t in moved] == [[]] * 4


def test_the_folds_are_those_that_were_shifted_for(tmp_path):
    """New folds are balanced by labelled tiles, which a shift changes: the test fold was no longer the one that had
    kept its labels, and `vstain fit` without --cv took the manifest's own."""
    tiny_records(tmp_path / "r", tile_px=64, window_um=19.2, patients=9, n_folds=5, cells_per_tile=26)
    asked = plan_folds(read_manifest(tmp_path / "r"), 3)
    with pytest.raises(InputError, match="expected 0 to 2"):
        shift_labels(tmp_path / "r", tmp_path / "out", 8.0, fold=3, folds=3)
    shift_labels(tmp_path / "r", tmp_path / "out", 8.0, folds=3)
    written = read_manifest(tmp_path / "out")
    assert written.n_folds == 3
    assert written.folds() == asked.folds
    assert plan_folds(written, 3).folds == asked.folds
    before, after = ({r["image/filename"]: r["cells/x"] for r in records_of(tmp_path / f)} for f in ("r", "out"))
    kept = {p.pair for p in written.pairs_in([0])}
    assert {name.split("/")[0] for name in before if before[name] == after[name]} == kept


def test_a_slide_whose_pixels_are_not_square_is_shifted_by_the_same_length(tmp_path):
    tiny_records(tmp_path, tile_px=64, window_um=19.2, patients=3, tiles_per_pair=5, few_cells_every=0)
    tiles = records_of(tmp_path)[:5]  # a row of four, and one below its first
    tiles = [t | {"tile/y_px0": t["tile/y_px0"] / 2, "tile/height_px0": t["tile/height_px0"] / 2} for t in tiles]
    moved = shifted_pair(tiles, np.array([0.0, 19.2]), 20)
    assert moved[4]["label/positive"] == tiles[0]["label/positive"]
    assert moved[4]["label/negative"] == tiles[0]["label/negative"]


def test_overlapping_windows_are_refused(tmp_path):
    """Their cells lie in several tiles: moved as a whole, each would have been counted as often."""
    manifest = tiny_records(tmp_path / "r", tile_px=64, window_um=19.2, patients=3)
    tiling = dataclasses.replace(manifest.tiling, stride_um=9.6)
    write_manifest(tmp_path / "r", dataclasses.replace(manifest, tiling=tiling))
    with pytest.raises(InputError, match="counted more than once"):
        shift_labels(tmp_path / "r", tmp_path / "out", 5.0)


def test_a_folder_with_something_in_it_is_left_alone(tmp_path):
    from virtual_stain.errors import OutputError

    tiny_records(tmp_path / "r", tile_px=64, window_um=19.2, patients=3)
    with pytest.raises(OutputError, match="empty folder"):
        shift_labels(tmp_path / "r", tmp_path / "r", 5.0)
