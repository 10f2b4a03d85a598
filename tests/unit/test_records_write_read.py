from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.fixtures.records import TinyRecords, tiny_record
from virtual_stain.errors import OutputError, VerificationError
from virtual_stain.records.read import decode_example, iterate_serialized, iterate_shard, parse_example
from virtual_stain.records.schema import FEATURES, Record
from virtual_stain.records.write import encode_example, remove_shards, stage_shards, write_shards


def _records(n: int, pair: str = "p1") -> list[Record]:
    rng = np.random.default_rng(3)
    return [tiny_record(rng, TinyRecords(tile_px=64), pair, 0, i) for i in range(n)]


def test_round_trip_in_python_keeps_every_value() -> None:
    for record in _records(4):
        back = decode_example(encode_example(record))
        assert list(back) == [f.key for f in FEATURES if f.key in record]
        for key, value in record.items():
            if isinstance(value, float) or (isinstance(value, list) and value and isinstance(value[0], float)):
                np.testing.assert_array_equal(np.float32(back[key]), np.float32(value))
            else:
                assert back[key] == value


def test_the_graph_parser_gives_the_same_values() -> None:
    record = _records(4)[3]
    parsed = parse_example(encode_example(record))
    assert set(parsed) == {f.key for f in FEATURES}
    assert parsed["image/encoded"].numpy() == record["image/encoded"]
    assert parsed["cells/positive"].numpy().tolist() == record["cells/positive"]
    np.testing.assert_array_equal(parsed["cells/x"].numpy(), np.float32(record["cells/x"]))
    assert [f.decode() for f in parsed["tile/flags"].numpy()] == record["tile/flags"] == ["few_cells"]


def test_an_absent_optional_value_is_nan_in_the_graph_and_absent_in_python() -> None:
    record = _records(1)[0]
    del record["registration/error_p95_um"]
    data = encode_example(record)
    assert np.isnan(parse_example(data)["registration/error_p95_um"].numpy())
    assert "registration/error_p95_um" not in decode_example(data)


def test_only_the_chosen_keys_are_parsed() -> None:
    assert set(parse_example(encode_example(_records(1)[0]), ["label/weight"])) == {"label/weight"}


def test_a_wrong_record_is_never_written(tmp_path: Path) -> None:
    records = _records(3)
    records[2]["label/positive"] += 1
    with pytest.raises(VerificationError, match="p1/2_0"):
        write_shards(tmp_path, "p1", records, shard_bytes=10**9)
    assert list(tmp_path.iterdir()) == []


def test_shards_are_split_named_and_repeatable(tmp_path: Path) -> None:
    records = _records(7)
    size = len(encode_example(records[0])) + 16
    shards = write_shards(tmp_path, "p1", iter(records), shard_bytes=int(2.6 * size))
    assert [s.file for s in shards] == [f"p1-{i:05d}-of-{len(shards):05d}.tfrecord" for i in range(len(shards))]
    assert len(shards) > 2
    assert sum(s.records for s in shards) == 7
    names = [r["image/filename"] for s in shards for r in iterate_shard(tmp_path / s.file)]
    assert names == [r["image/filename"] for r in records]
    assert write_shards(tmp_path, "p1", records, shard_bytes=int(2.6 * size)) == shards


def test_an_older_shard_set_is_replaced_and_that_of_another_pair_is_not(tmp_path: Path) -> None:
    write_shards(tmp_path, "p1", _records(6), shard_bytes=1)
    other = write_shards(tmp_path, "p1-b", _records(1, "p1-b"), shard_bytes=1)
    write_shards(tmp_path, "p1", _records(2), shard_bytes=10**9)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["p1-00000-of-00001.tfrecord", other[0].file]
    remove_shards(tmp_path, "p1")
    assert [p.name for p in tmp_path.iterdir()] == [other[0].file]


def test_no_records_give_no_shard(tmp_path: Path) -> None:
    assert write_shards(tmp_path, "p1", [], shard_bytes=100) == ()


def test_a_flipped_bit_is_named_with_file_and_record(tmp_path: Path) -> None:
    shard = write_shards(tmp_path, "p1", _records(3), shard_bytes=10**9)[0]
    path = tmp_path / shard.file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(VerificationError, match=r"p1-00000-of-00001\.tfrecord: record 1 is corrupt"):
        list(iterate_shard(path))


def test_a_shard_cut_off_is_named_with_file_and_record(tmp_path: Path) -> None:
    shard = write_shards(tmp_path, "p1", _records(3), shard_bytes=10**9)[0]
    path = tmp_path / shard.file
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(VerificationError, match="record 2 is corrupt or cut off"):
        list(iterate_serialized(path))


@pytest.mark.parametrize("length", [2**40, 2**63, 2**64 - 1])
def test_a_length_beyond_the_file_ended_the_process(tmp_path: Path, length: int) -> None:
    shard = write_shards(tmp_path, "p1", _records(3), shard_bytes=10**9)[0]
    path = tmp_path / shard.file
    data = path.read_bytes()
    path.write_bytes(length.to_bytes(8, "little") + data[8:])
    with pytest.raises(VerificationError, match="record 0 is corrupt or cut off"):
        list(iterate_serialized(path))


def test_something_else_in_a_valid_frame_is_refused() -> None:
    with pytest.raises(VerificationError, match=r"tf\.train\.Example"):
        decode_example(b"\xff\xff\xffnot an example")


def test_an_output_that_is_a_file_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("x")
    with pytest.raises(OutputError, match="cannot be written"):
        write_shards(tmp_path / "out", "p1", _records(1), shard_bytes=100)


@pytest.mark.parametrize("when", ["write", "close", "silently"])
def test_a_full_disk_is_told_and_leaves_the_older_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    class Full:
        def __init__(self, path: str) -> None:
            Path(path).write_bytes(b"half")

        def write(self, data: bytes) -> None:
            if when == "write":
                raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

        def close(self) -> None:
            if when == "close":
                raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    (older,) = write_shards(tmp_path, "p1", _records(3), shard_bytes=10**9)
    before = (tmp_path / older.file).read_bytes()
    monkeypatch.setattr(tf.io, "TFRecordWriter", Full)
    with pytest.raises(OutputError, match="the disk is full"):
        write_shards(tmp_path, "p1", _records(2), shard_bytes=10**9)
    assert [p.name for p in tmp_path.iterdir()] == [older.file]
    assert (tmp_path / older.file).read_bytes() == before


def test_a_disk_that_filled_up_at_the_second_pair_left_shards_that_the_manifest_did_not_know(tmp_path: Path) -> None:
    """The first pair's new shard was in place, its manifest was not: shards are put there with the manifest."""
    (older,) = write_shards(tmp_path, "p1", _records(3), shard_bytes=10**9)
    before = (tmp_path / older.file).read_bytes()
    staged = stage_shards(tmp_path, "p1", _records(2), shard_bytes=10**9)
    assert (tmp_path / older.file).read_bytes() == before
    staged.discard()  # the second pair met the full disk
    assert [p.name for p in tmp_path.iterdir()] == [older.file]
    staged = stage_shards(tmp_path, "p1", _records(2), shard_bytes=10**9)
    staged.commit()
    staged.discard()
    assert [p.name for p in tmp_path.iterdir()] == [staged.entries[0].file]
    assert len(list(iterate_shard(tmp_path / staged.entries[0].file))) == 2
