"""The control experiment on registration errors: labels moved beside their tiles."""

import dataclasses

import numpy as np
import pytest

from tests.fixtures.records import tiny_records
from tools.shift_labels import shift_labels, shifted_pair
from virtual_stain.errors import InputError
from virtual_stain.records.manifest import read_manifest, shard_paths, write_manifest
from virtual_stain.records.read import iterate_shard
from virtual_stain.records.schema import problems_of
from virtual_stain.records.verify import verify_records


def records_of(folder):
    return [r for p in shard_paths(folder, read_manifest(folder).pairs) for r in iterate_shard(p)]


def test_no_shift_changes_nothing_and_a_shift_moves_whole_pairs(tmp_path):
    tiny_records(tmp_path / "r", tile_px=64, window_um=19.2, patients=3)
    assert shift_labels(tmp_path / "r", tmp_path / "zero", 0.0) == 2, "the test fold keeps its labels"
    for a, b in zip(records_of(tmp_path / "r"), records_of(tmp_path / "zero"), strict=True):
        assert a["label/positive"] == b["label/positive"]
        np.testing.assert_allclose(a["cells/x"], b["cells/x"], atol=1e-3)
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
