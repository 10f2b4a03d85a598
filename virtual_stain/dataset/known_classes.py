"""Whether there is an intensity to learn from at all: a network without one would answer its start for ever."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from virtual_stain.dataset.split import Split
from virtual_stain.errors import InputError
from virtual_stain.markers import Marker
from virtual_stain.records.manifest import PairEntry, shard_paths
from virtual_stain.records.read import parse_example, shard_dataset
from virtual_stain.remote import Location


def require_intensities(folder: Location, split: Split, markers: Sequence[Marker]) -> None:
    """Raises InputError where the training or the validation patients have no stained cell of a known class."""
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
    return any(bool(found) for found in records.map(stained))
