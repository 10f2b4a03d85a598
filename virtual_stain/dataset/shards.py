"""The shards as the manifest knows them: checked before a run, and named when one breaks during it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import tensorflow as tf

from virtual_stain.errors import VerificationError
from virtual_stain.files import sha256_file
from virtual_stain.progress import QUIET, Progress
from virtual_stain.records.manifest import PairEntry
from virtual_stain.remote import Location

_HINT = "vstain records verify {folder} finds every damaged file; build-records packs it anew from the work folder."


def verify_shards(folder: Location, pairs: Sequence[PairEntry], progress: Progress = QUIET) -> None:
    """Every shard is there and has the manifest's sha256. Raises VerificationError that lists all that are not."""
    shards = [s for p in pairs for s in p.shards]
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


@contextlib.contextmanager
def reading_errors(folder: Location) -> Iterator[None]:
    """A record that cannot be read while the pipeline runs becomes VerificationError with the folder's name."""
    try:
        yield
    except (tf.errors.DataLossError, tf.errors.NotFoundError, tf.errors.InvalidArgumentError) as error:
        raise VerificationError(
            f"{folder}: a record cannot be read: {error.message}", hint=_HINT.format(folder=folder)
        ) from error
