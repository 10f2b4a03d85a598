"""Records → TFRecord shards: `<pair>-00000-of-00002.tfrecord`, split near `shard_bytes`. Needs TensorFlow.

The bytes depend on the records alone: features in a fixed order, no times, no names of hosts.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class StagedShards:
    """A pair's shards, whole and on the disk under names that no reader takes, beside the older ones."""

    folder: Path
    pair: str
    entries: tuple[ShardEntry, ...]
    """As the manifest will list them."""

    def commit(self) -> None:
        """Puts them in place of the pair's older shards by renames alone, which a full disk does not stop.

        Raises OutputError.
        """
        with output_errors(self.folder):
            for entry in self.entries:
                self._temporary(entry).replace(self.folder / entry.file)
        remove_shards(self.folder, self.pair, keep=[self.folder / entry.file for entry in self.entries])

    def discard(self) -> None:
        """Removes them again; after `commit` there is nothing to remove."""
        for entry in self.entries:
            with contextlib.suppress(OSError):
                self._temporary(entry).unlink(missing_ok=True)

    def _temporary(self, entry: ShardEntry) -> Path:
        return self.folder / f"{entry.file}.tmp"


def write_shards(
    folder: Path, pair: str, records: Iterable[Mapping[str, Any]], *, shard_bytes: int
) -> tuple[ShardEntry, ...]:
    """Writes the shard set of one pair in place of an older one; no records give no shard.

    Raises OutputError, VerificationError: then the older one is as it was.
    """
    staged = stage_shards(folder, pair, records, shard_bytes=shard_bytes)
    staged.commit()
    return staged.entries


def stage_shards(folder: Path, pair: str, records: Iterable[Mapping[str, Any]], *, shard_bytes: int) -> StagedShards:
    """Writes the shard set of one pair beside an older one. Memory: one record.

    Raises OutputError, VerificationError.
    """
    return _stage(folder, pair, _cut_by_size((encode_example(record) for record in records), shard_bytes))


def stage_serialized(folder: Path, name: str, serialized: Iterable[bytes], sizes: Sequence[int]) -> StagedShards:
    """Writes serialized examples as `name`-00000-of-0000N.tfrecord, `sizes` of them a shard, beside older shards.

    Raises OutputError, and VerificationError where there are not so many.
    """
    return _stage(folder, name, _cut_by_number(serialized, sizes))


def _cut_by_size(serialized: Iterable[bytes], shard_bytes: int) -> Iterator[tuple[bytes, bool]]:
    """(example, whether it begins a shard)."""
    written = 0
    for data in serialized:
        size = len(data) + _FRAMING_BYTES
        begins = not written or written + size > shard_bytes
        written = size if begins else written + size
        yield data, begins


def _cut_by_number(serialized: Iterable[bytes], sizes: Sequence[int]) -> Iterator[tuple[bytes, bool]]:
    starts = set(itertools.accumulate(sizes, initial=0))
    count = -1
    for count, data in enumerate(serialized):
        yield data, count in starts
    if count + 1 != sum(sizes):
        raise VerificationError(f"Expected {sum(sizes)} examples. Received: {count + 1}")


def _stage(folder: Path, pair: str, serialized: Iterable[tuple[bytes, bool]]) -> StagedShards:
    make_folder(folder)
    parts: list[_Part] = []
    with output_errors(folder):
        try:
            _write_parts(folder, pair, serialized, parts)
            entries = [_entry(part, f"{pair}-{i:05d}-of-{len(parts):05d}.tfrecord") for i, part in enumerate(parts)]
            for part, entry in zip(parts, entries, strict=True):
                part.path.replace(folder / f"{entry.file}.tmp")
        except BaseException:
            for part in parts:
                with contextlib.suppress(OSError):
                    part.path.unlink(missing_ok=True)
            raise
    return StagedShards(folder, pair, tuple(entries))


@dataclass(slots=True)
class _Part:
    """A shard while the number of shards is not known yet."""

    path: Path
    records: int = 0
    bytes: int = 0


def _write_parts(folder: Path, pair: str, serialized: Iterable[tuple[bytes, bool]], parts: list[_Part]) -> None:
    writer: tf.io.TFRecordWriter | None = None
    try:
        try:
            for data, begins in serialized:
                if writer is None or begins:
                    if writer is not None:
                        writer.close()
                    parts.append(_Part(folder / f"{pair}-{len(parts):05d}.tfrecord.tmp"))
                    writer = tf.io.TFRecordWriter(str(parts[-1].path))
                writer.write(data)
                parts[-1].bytes += len(data) + _FRAMING_BYTES
                parts[-1].records += 1
        finally:
            if writer is not None:
                writer.close()  # much is written only now, and refused only now
    except tf.errors.OpError as error:
        # TensorFlow's file system has its own errors: a full or read-only disk must read like everywhere else
        raise _as_os_error(error, parts[-1].path if parts else folder) from error


def _as_os_error(error: tf.errors.OpError, path: Path) -> OSError:
    kinds = {
        tf.errors.PermissionDeniedError: errno.EACCES,
        tf.errors.ResourceExhaustedError: errno.ENOSPC,
        tf.errors.FailedPreconditionError: errno.EROFS,
    }
    number = next((n for kind, n in kinds.items() if isinstance(error, kind)), errno.EIO)
    return OSError(number, error.message, str(path))


def _entry(part: _Part, name: str) -> ShardEntry:
    """A written part as the manifest lists it. Raises OSError unless all of it is on the disk."""
    with part.path.open("rb") as stream:
        os.fsync(stream.fileno())
    size = part.path.stat().st_size
    if size != part.bytes:
        raise OSError(errno.ENOSPC, f"{size} of {part.bytes} bytes were written", str(part.path))
    return ShardEntry(file=name, sha256=sha256_file(part.path), bytes=size, records=part.records)


def remove_shards(folder: Path, pair: str, keep: Collection[Path] = ()) -> None:
    """Removes every shard and unfinished shard of this pair but `keep`, and of no other pair."""
    pattern = re.compile(re.escape(pair) + r"-\d{5}(-of-\d{5})?\.tfrecord(\.tmp)?")
    with output_errors(folder):
        for path in folder.iterdir():
            if pattern.fullmatch(path.name) and path not in keep:
                path.unlink(missing_ok=True)
