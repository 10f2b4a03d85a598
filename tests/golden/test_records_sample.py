"""The committed sample: readers of today must read what was written when it was committed."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from virtual_stain.cli.records import command
from virtual_stain.labels.jpeg import decode_jpeg
from virtual_stain.records.manifest import read_manifest, shard_paths
from virtual_stain.records.read import iterate_serialized, iterate_shard
from virtual_stain.records.verify import verify_records
from virtual_stain.records.write import encode_example

SAMPLE = Path(__file__).parents[2] / "tfrecords" / "sample"
EXPECTED = json.loads((Path(__file__).parent / "records_sample.json").read_text(encoding="utf-8"))


def test_the_sample_verifies() -> None:
    done = verify_records(SAMPLE)
    assert (done.shards, done.records) == (2, 6)
    assert sum(p.stat().st_size for p in SAMPLE.iterdir()) < 60_000


def test_every_value_reads_as_it_did() -> None:
    received = []
    for path in shard_paths(SAMPLE, read_manifest(SAMPLE).pairs):
        for record in iterate_shard(path):
            picture = decode_jpeg(record.pop("image/encoded"))
            received.append({**record, "picture": [list(picture.shape), round(float(picture.mean()), 1)]})
    assert json.loads(json.dumps(received)) == EXPECTED


def test_writing_what_was_read_gives_the_same_bytes() -> None:
    for path in shard_paths(SAMPLE, read_manifest(SAMPLE).pairs):
        assert [encode_example(r) for r in iterate_shard(path)] == list(iterate_serialized(path))


def test_show_prints_a_record_and_draws_its_tile(tmp_path: Path) -> None:
    picture = tmp_path / "tile.png"
    done = CliRunner().invoke(command, ["show", str(SAMPLE), "case01-0", "1", "0", "--out", str(picture)])
    assert done.exit_code == 0, done.output
    assert "image/filename                   case01-0/1_0" in done.output
    assert f"picture (H&E): {picture}" in done.output
    assert picture.stat().st_size > 1000
