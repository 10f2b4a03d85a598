"""The control experiment on registration errors: labels moved beside their tiles."""

import numpy as np
import pytest

from tests.fixtures.records import tiny_records
from tools.shift_labels import shift_labels, shifted_pair
from virtual_stain.records.manifest import read_manifest, shard_paths
from virtual_stain.records.read import iterate_shard
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


def test_a_folder_with_something_in_it_is_left_alone(tmp_path):
    from virtual_stain.errors import OutputError

    tiny_records(tmp_path / "r", tile_px=64, window_um=19.2, patients=3)
    with pytest.raises(OutputError, match="empty folder"):
        shift_labels(tmp_path / "r", tmp_path / "r", 5.0)
