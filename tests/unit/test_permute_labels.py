"""The control experiment on labels: those of all training tiles, each at another tile."""

import dataclasses

from tests.fixtures.records import tiny_records
from tools.permute_labels import permute_labels
from virtual_stain.records.manifest import read_manifest, shard_paths, write_manifest
from virtual_stain.records.read import iterate_shard
from virtual_stain.records.verify import verify_records
from virtual_stain.records.write import write_shards


def records_of(folder):
    return [r for p in shard_paths(folder, read_manifest(folder).pairs) for r in iterate_shard(p)]


def two_markers(folder):
    """Six patients, every second pair of another marker, and a tile that a person has corrected."""
    manifest = tiny_records(folder, tile_px=64, window_um=19.2, patients=6, tiles_per_pair=4)
    pairs = []
    for index, pair in enumerate(manifest.pairs):
        marker = ("ki67", "er")[index // 3]
        tiles = [r | {"label/marker": marker} for s in pair.shards for r in iterate_shard(folder / s.file)]
        first = [1] + [0] * (len(tiles[0]["cells/x"]) - 1)
        tiles[0] |= {"tile/flags": ["border", "corrected"], "cells/corrected": first}
        shards = write_shards(folder, pair.pair, tiles, shard_bytes=10**9)
        pairs.append(dataclasses.replace(pair, marker=marker, shards=shards))
    write_manifest(folder, dataclasses.replace(manifest, markers=("ki67", "er"), pairs=tuple(pairs)))


def test_labels_travel_within_their_marker_and_the_folder_verifies(tmp_path):
    """Of two markers the labels changed places, so a record's marker was not its pair's; corrections were refused."""
    two_markers(tmp_path / "r")
    assert permute_labels(tmp_path / "r", tmp_path / "p", fold=0, seed=1) == (16, 2)
    manifest = verify_records(tmp_path / "p").manifest
    before, after = records_of(tmp_path / "r"), records_of(tmp_path / "p")
    assert [r["image/encoded"] for r in after] == [r["image/encoded"] for r in before]
    kept = {p.pair for p in manifest.pairs_in([0])}
    moved = [a["label/id"] != b["label/id"] for a, b in zip(before, after, strict=True)]
    assert not any(m for m, r in zip(moved, before, strict=True) if r["tile/pair"] in kept)
    assert sum(moved) >= 10
    by_id = {r["label/id"]: r for r in before}
    for record in after:
        source = by_id[record["label/id"]]
        assert all(record.get(k) == v for k, v in source.items() if k.startswith(("label/", "cells/")))
    assert [("border" in r["tile/flags"]) for r in after] == [("border" in r["tile/flags"]) for r in before]
    assert sorted(r["label/id"] for r in after) == sorted(r["label/id"] for r in before)
