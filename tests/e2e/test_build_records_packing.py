"""build-records packs the same tiles anew: another value definition, and the IHC side beside the H&E."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from tests.fixtures.built import ACCEPT, Built, outputs
from virtual_stain.config import Config, CountingSettings, LabelSettings
from virtual_stain.counting.slide_stain import SlideStain
from virtual_stain.errors import (
    VerificationError,
)
from virtual_stain.labels.store import TileStore
from virtual_stain.markers import ValueDefinition
from virtual_stain.records.ihc_shards import iterate_ihc_shard, stage_ihc_shards
from virtual_stain.records.manifest import read_manifest, shard_paths, write_manifest
from virtual_stain.records.read import iterate_shard
from virtual_stain.records.verify import verify_records
from virtual_stain.workflows.build_records import build_records

pytestmark = pytest.mark.usefixtures("key_of_built")


def test_another_value_definition_packs_the_same_tiles_anew(built: Built, copy: Path) -> None:
    tiles = {p: p.stat().st_mtime_ns for p in copy.glob("work/*/tiles.h5")}
    counting = CountingSettings(value_definition=ValueDefinition.NEGATIVE_COUNT)
    build_records(built.pairs_csv, copy, Config(counting=counting), ACCEPT)
    assert {p: p.stat().st_mtime_ns for p in copy.glob("work/*/tiles.h5")} == tiles, "nothing was counted again"
    verified = verify_records(copy).manifest
    assert verified.value_definition == "negative_count"
    records = [r for path in shard_paths(copy, verified.pairs) for r in iterate_shard(path)]
    assert {r["label/value_definition"] for r in records} == {"negative_count"}
    assert [r["label/id"] for r in records] == [
        r["label/id"] for path in shard_paths(built.out, verified.pairs) for r in iterate_shard(path)
    ], "a verdict on the cells stays one"


def test_the_ihc_side_lies_parallel_and_the_he_shards_are_the_same_bytes(built: Built, copy: Path) -> None:
    he_side = outputs(built.out)
    tiles = {p: p.stat().st_mtime_ns for p in copy.glob("work/*/tiles.h5")}
    keeping = Config(labels=LabelSettings(keep_ihc=True, shard_mb=0.4))
    manifest = build_records(built.pairs_csv, copy, keeping, ACCEPT).manifest
    assert {p: p.stat().st_mtime_ns for p in copy.glob("work/*/tiles.h5")} == tiles, "nothing was counted again"
    assert len(manifest.pairs[0].shards) > 1
    assert verify_records(copy).manifest == manifest == read_manifest(copy)
    for pair in manifest.pairs:
        assert pair.ihc is not None
        assert [s.records for s in pair.ihc.shards] == [s.records for s in pair.shards]
        with TileStore(copy / "work" / pair.pair / "tiles.h5") as store:
            by_label = {tile.label_id: tile for tile in store.tiles()}
        for he, ihc in zip(pair.shards, pair.ihc.shards, strict=True):
            records = list(iterate_shard(copy / he.file))
            sides = list(iterate_ihc_shard(copy / ihc.file))
            assert [side.label_id for side in sides] == [record["label/id"] for record in records]
            assert all(side.jpeg == by_label[side.label_id].ihc_jpeg for side in sides)
        assert pair.ihc.stain == SlideStain.from_dict(
            json.loads((copy / "work" / pair.pair / "stain.json").read_bytes())["stain"]
        )
    again = outputs(copy)
    build_records(built.pairs_csv, copy, keeping, ACCEPT)
    assert outputs(copy) == again

    build_records(built.pairs_csv, copy, Config(labels=LabelSettings(keep_ihc=True)), ACCEPT)
    now = outputs(copy)
    assert {name: now[name] for name in he_side if name != "manifest.json"} == {
        name: data for name, data in he_side.items() if name != "manifest.json"
    }
    build_records(built.pairs_csv, copy, Config(), ACCEPT)
    assert outputs(copy) == he_side, "without the IHC side the folder is what it was"


def test_an_ihc_tile_of_another_record_is_an_error(built: Built, copy: Path) -> None:
    manifest = build_records(built.pairs_csv, copy, Config(labels=LabelSettings(keep_ihc=True)), ACCEPT).manifest
    pair = manifest.pairs[0]
    assert pair.ihc is not None
    tiles = list(iterate_ihc_shard(copy / pair.ihc.shards[0].file))
    staged = stage_ihc_shards(copy, pair.pair, [tiles[1], tiles[0], *tiles[2:]], pair.shards)
    staged.commit()
    swapped = dataclasses.replace(pair, ihc=dataclasses.replace(pair.ihc, shards=staged.entries))
    write_manifest(copy, dataclasses.replace(manifest, pairs=(swapped, *manifest.pairs[1:])))
    with pytest.raises(VerificationError, match="record 0 is not the IHC side"):
        verify_records(copy)
    with pytest.raises(VerificationError, match=r"Expected \d+ examples. Received: 2"):
        stage_ihc_shards(copy, pair.pair, tiles[:2], pair.shards)
    assert not list(copy.glob("*.tmp"))
    (copy / pair.ihc.shards[0].file).unlink()
    with pytest.raises(VerificationError, match="the file is missing"):
        verify_records(copy)
