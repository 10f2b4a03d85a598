"""The shards as the manifest knows them: checked before a run, and named when one breaks during it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import tensorflow as tf

from virtual_stain.dataset.split import Split
from virtual_stain.errors import InputError, VerificationError
from virtual_stain.files import sha256_file
from virtual_stain.markers import Marker
from virtual_stain.progress import QUIET, Progress
from virtual_stain.records.manifest import PairEntry, ShardEntry, shard_paths
from virtual_stain.records.read import as_written, parse_example, shard_dataset
from virtual_stain.remote import Location

_HINT = "vstain records verify {folder} finds every damaged file; build-records packs it anew from the work folder."


def verify_shards(folder: Location, pairs: Sequence[PairEntry], progress: Progress = QUIET) -> None:
    """Every shard is there and has the manifest's sha256. Raises VerificationError that lists all that are not."""
    _verify(folder, [s for p in pairs for s in p.shards], progress)


def verify_ihc_shards(folder: Location, pairs: Sequence[PairEntry]) -> None:
    """The same of their IHC side."""
    _verify(folder, [s for p in pairs if p.ihc for s in p.ihc.shards], QUIET)


def _verify(folder: Location, shards: Sequence[ShardEntry], progress: Progress) -> None:
    problems = []
    for shard in progress.track(shards, len(shards), "Checking shards", "shards"):
        path = folder / shard.file
        if not path.is_file():
            problems.append(f"{path}: missing")
        elif path.stat().st_size != shard.bytes or sha256_file(path) != shard.sha256:
            problems.append(f"{path}: changed since the manifest was written")
    if problems:
        raise VerificationError(
            f"{folder}: expected the shards of the manifest. Received:\n" + "\n".join(f"  - {p}" for p in problems),
            hint=_HINT.format(folder=folder),
        )


def require_intensities(folder: Location, split: Split, markers: Sequence[Marker]) -> None:
    """A network without an intensity to learn from would answer its start for ever.

    Raises InputError where the training or the validation patients have no stained cell of a known class.
    """
    for marker in markers:
        if not marker.has_intensities:
            continue
        for side, pairs in (("training", split.train), ("validation", split.validation)):
            own = [p for p in pairs if p.marker == marker.value]
            if not _has_class(folder, own):
                raise InputError(
                    f"{folder}: {marker.label}: no tile of the {side} patients has a stained cell of a known class.",
                    hint="Take another --fold, or correct the intensities: vstain review.",
                )


def _has_class(folder: Location, pairs: Sequence[PairEntry]) -> bool:
    """Reads records up to the first that has one."""

    def stained(data: tf.Tensor) -> tf.Tensor:
        record = parse_example(data, ("cells/intensity", "label/weight"))
        return tf.reduce_any(record["cells/intensity"] > 0) & (record["label/weight"] > 0)

    records = shard_dataset([str(path) for path in shard_paths(folder, pairs)])
    return any(bool(found) for found in records.map(as_written(stained)))


@contextlib.contextmanager
def reading_errors(folder: Location) -> Iterator[None]:
    """A record that cannot be read while the pipeline runs becomes VerificationError with the folder's name."""
    try:
        yield
    except (tf.errors.DataLossError, tf.errors.NotFoundError, tf.errors.InvalidArgumentError) as error:
        raise VerificationError(
            f"{folder}: a record cannot be read: {error.message}", hint=_HINT.format(folder=folder)
        ) from error
