"""Records → TFRecord shards: `<pair>-00000-of-00002.tfrecord`, split near `shard_bytes`. Needs TensorFlow.

The bytes depend on the records alone: features in a fixed order, no times, no names of hosts.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from virtual_stain.errors import VerificationError
from virtual_stain.files import make_folder, output_errors, sha256_file
from virtual_stain.records.manifest import ShardEntry
from virtual_stain.records.schema import BY_KEY, FEATURES, problems_of

_FRAMING_BYTES = 16  # TFRecord: length (8), its CRC (4), CRC of the data (4)


def encode_example(record: Mapping[str, Any]) -> bytes:
    """One record as a serialized `tf.train.Example`; equal records give equal bytes.

    Raises VerificationError when the record does not follow the schema: a wrong record is never written.
    """
    problems = problems_of(record)
    if problems:
        raise VerificationError(
            f"record {record.get('image/filename', '?')}: it does not follow the schema:\n"
            + "\n".join(f"  - {p}" for p in problems)
        )
    features = {f.key: _feature(f.key, record[f.key]) for f in FEATURES if f.key in record}
    example = tf.train.Example(features=tf.train.Features(feature=features))
    data: bytes = example.SerializeToString(deterministic=True)
    return data


def _feature(key: str, value: Any) -> tf.train.Feature:
    spec = BY_KEY[key]
    items = list(value) if spec.many else [value]
    if spec.kind == "text":
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[item.encode("utf-8") for item in items]))
    if spec.kind == "bytes":
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=items))
    if spec.kind == "float":
        return tf.train.Feature(float_list=tf.train.FloatList(value=items))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=items))


def write_shards(
    folder: Path, pair: str, records: Iterable[Mapping[str, Any]], *, shard_bytes: int
) -> tuple[ShardEntry, ...]:
    """Writes the shard set of one pair in place of an older one; no records give no shard.

    Each file is written as `.tmp`, synced, and renamed when the number of shards is known. Memory: one record.
    Raises OutputError, VerificationError.
    """
    make_folder(folder)
    parts: list[tuple[Path, int]] = []
    with output_errors(folder):
        try:
            _write_parts(folder, pair, records, shard_bytes, parts)
            remove_shards(folder, pair, keep=[path for path, _ in parts])
            return tuple(_finish(folder, pair, parts))
        finally:
            for path, _ in parts:
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)


def _write_parts(
    folder: Path,
    pair: str,
    records: Iterable[Mapping[str, Any]],
    shard_bytes: int,
    parts: list[tuple[Path, int]],
) -> None:
    """Fills `parts` with (temporary file, number of records)."""
    writer: tf.io.TFRecordWriter | None = None
    size = 0
    try:
        for record in records:
            data = encode_example(record)
            if writer is None or (size and size + len(data) + _FRAMING_BYTES > shard_bytes):
                if writer is not None:
                    writer.close()
                parts.append((folder / f"{pair}-{len(parts):05d}.tfrecord.tmp", 0))
                writer, size = tf.io.TFRecordWriter(str(parts[-1][0])), 0
            writer.write(data)
            size += len(data) + _FRAMING_BYTES
            parts[-1] = (parts[-1][0], parts[-1][1] + 1)
    except tf.errors.OpError as error:
        # TensorFlow's file system has its own errors: a full or read-only disk must read like everywhere else
        raise _as_os_error(error, parts[-1][0] if parts else folder) from error
    finally:
        if writer is not None:
            writer.close()


def _as_os_error(error: tf.errors.OpError, path: Path) -> OSError:
    import errno

    kinds = {
        tf.errors.PermissionDeniedError: errno.EACCES,
        tf.errors.ResourceExhaustedError: errno.ENOSPC,
        tf.errors.FailedPreconditionError: errno.EROFS,
    }
    number = next((n for kind, n in kinds.items() if isinstance(error, kind)), errno.EIO)
    return OSError(number, error.message, str(path))


def _finish(folder: Path, pair: str, parts: list[tuple[Path, int]]) -> Iterable[ShardEntry]:
    for index, (temporary, count) in enumerate(parts):
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        path = folder / f"{pair}-{index:05d}-of-{len(parts):05d}.tfrecord"
        digest, size = sha256_file(temporary), temporary.stat().st_size
        temporary.replace(path)
        yield ShardEntry(file=path.name, sha256=digest, bytes=size, records=count)


def remove_shards(folder: Path, pair: str, keep: Collection[Path] = ()) -> None:
    """Removes every shard and unfinished shard of this pair but `keep`, and of no other pair."""
    pattern = re.compile(re.escape(pair) + r"-\d{5}(-of-\d{5})?\.tfrecord(\.tmp)?")
    with output_errors(folder):
        for path in folder.iterdir():
            if pattern.fullmatch(path.name) and path not in keep:
                path.unlink(missing_ok=True)
