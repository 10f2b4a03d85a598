"""TFRecord shards → records: `parse_example` in a tf.data graph, `iterate_shard` in Python. Needs TensorFlow."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import tensorflow as tf

from virtual_stain.errors import VerificationError
from virtual_stain.records.schema import BY_KEY, FEATURES, Feature, Record
from virtual_stain.remote import Location

_BUFFER_BYTES = 8 << 20
_LENGTH_BYTES, _FRAMING_BYTES = 8, 16  # TFRecord: length, its CRC (4), data, their CRC (4)
_AGAIN = "Remove the file and run vstain build-records again; it is packed anew from the work folder."
_TF_TYPES = {"bytes": tf.string, "text": tf.string, "float": tf.float32, "int": tf.int64}


def parse_example(serialized: tf.Tensor, keys: Iterable[str] | None = None) -> dict[str, tf.Tensor]:
    """Graph function: one serialized example (string[]) → {feature key: tensor}.

    Scalars have shape [], lists shape [N] (cells/x, cells/y float32[N]; cells/positive int64[N]; tile/flags
    string[N]); text and image/encoded are string[]. An absent optional float is NaN, an absent list
    empty. `keys` parses only those.
    """
    chosen = FEATURES if keys is None else [BY_KEY[key] for key in keys]
    parsed: dict[str, tf.Tensor] = tf.io.parse_single_example(serialized, {f.key: _tf_feature(f) for f in chosen})
    return parsed


def _tf_feature(feature: Feature) -> Any:
    dtype = _TF_TYPES[feature.kind]
    if feature.many:
        return tf.io.FixedLenSequenceFeature([], dtype, allow_missing=True)
    if feature.optional:
        return tf.io.FixedLenFeature([], dtype, default_value=float("nan"))
    return tf.io.FixedLenFeature([], dtype)


def decode_example(serialized: bytes) -> Record:
    """One serialized example → the plain dict that `encode_example` takes (floats at float32 precision).

    Raises VerificationError for anything that is not one of our records.
    """
    try:
        example = tf.train.Example.FromString(serialized)
    except Exception as error:  # protobuf's DecodeError has no stable home between its back-ends
        raise VerificationError(f"expected a tf.train.Example. Received: {error}") from error
    record: Record = {}
    for key, value in example.features.feature.items():
        if key not in BY_KEY:
            raise VerificationError(f"unknown feature {key!r}")
        record[key] = _value(BY_KEY[key], value)
    return {f.key: record[f.key] for f in FEATURES if f.key in record}


def _value(spec: Feature, value: tf.train.Feature) -> Any:
    expected = {"bytes": "bytes_list", "text": "bytes_list", "float": "float_list", "int": "int64_list"}[spec.kind]
    received = value.WhichOneof("kind")
    if received not in (expected, None):
        raise VerificationError(f"{spec.key}: expected {expected}. Received: {received}")
    items: list[Any] = list(getattr(value, expected).value)
    if spec.kind == "text":
        try:
            items = [item.decode("utf-8") for item in items]
        except UnicodeDecodeError as error:
            raise VerificationError(f"{spec.key}: expected UTF-8 text. Received: {error}") from error
    if spec.many:
        return items
    if len(items) != 1:
        raise VerificationError(f"{spec.key}: expected one value. Received: {len(items)}")
    return items[0]


as_written = tf.autograph.experimental.do_not_convert
"""For every function that a dataset maps. They are graphs as they stand; TensorFlow's translator would write each one
to a temporary file, which a killed process leaves behind."""


def shard_dataset(paths: Any) -> tf.data.Dataset:
    """The serialized examples (string[]) of a shard's name, or of several one after the other, local or remote.

    One request fetches 8 MiB: in object storage a request costs far more than the bytes.
    """
    return tf.data.TFRecordDataset(paths, buffer_size=_BUFFER_BYTES)


def iterate_serialized(path: Location) -> Iterator[bytes]:
    """The serialized examples of one shard, every CRC checked.

    Raises VerificationError that names the file and the record (from 0) at which it is corrupt or cut off.
    """
    if isinstance(path, Path):
        _require_frames(path)
    index = 0
    try:
        for item in shard_dataset(str(path)):
            yield item.numpy()
            index += 1
    except (tf.errors.DataLossError, tf.errors.OutOfRangeError) as error:
        raise VerificationError(
            f"{path}: record {index} is corrupt or cut off (its CRC does not match).",
            hint=_AGAIN,
        ) from error
    except tf.errors.OpError as error:
        raise VerificationError(f"{path}: cannot be read: {error.message}") from error


def _require_frames(path: Path) -> None:
    """Every record's length fits into the file: TensorFlow takes the memory for it before it looks, and dies of it."""
    try:
        with path.open("rb") as stream:
            size, at, index = os.fstat(stream.fileno()).st_size, 0, 0
            while at < size:
                header = stream.read(_LENGTH_BYTES)
                length = int.from_bytes(header, "little")
                at += length + _FRAMING_BYTES
                if len(header) < _LENGTH_BYTES or at > size:
                    raise VerificationError(
                        f"{path}: record {index} is corrupt or cut off (its length does not fit into the file).",
                        hint=_AGAIN,
                    )
                stream.seek(at)
                index += 1
    except OSError as error:
        raise VerificationError(f"{path}: cannot be read: {error.strerror}") from error


def iterate_shard(path: Location) -> Iterator[Record]:
    """The records of one shard, as plain dicts. Raises VerificationError naming the file and the record."""
    for index, serialized in enumerate(iterate_serialized(path)):
        try:
            yield decode_example(serialized)
        except VerificationError as error:
            raise VerificationError(f"{path}: record {index}: {error.message}") from error
