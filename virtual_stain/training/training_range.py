"""How the training slides look: measured on their stored tiles, for scoring to compare new slides with."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from virtual_stain.appearance import Appearance, slide_appearance, tile_appearance, training_range
from virtual_stain.labels.jpeg import decode_jpeg
from virtual_stain.progress import QUIET, Progress
from virtual_stain.records.manifest import PairEntry
from virtual_stain.records.read import iterate_serialized, parse_example
from virtual_stain.remote import Location

_TILES_A_SLIDE = 40  # the median of more is the same


def measure_training_range(
    records: Location, pairs: Sequence[PairEntry], progress: Progress = QUIET
) -> dict[str, Any] | None:
    """The payload of `virtual_stain.appearance.training_range` from tiles whose ratio trains, evenly spread.

    Raises VerificationError for a record that cannot be read.
    """
    slides = []
    for pair in progress.track(pairs, len(pairs), "Looking at the training slides", "slides"):
        look = recorded_appearance(records, pair)
        if look is not None:
            slides.append(look)
    return training_range(slides)


def recorded_appearance(records: Location, pair: PairEntry) -> Appearance | None:
    """How one slide looks: 40 to 79 of its tiles whose ratio trains, evenly spread. Raises VerificationError."""
    every = max(1, pair.n_ratio // _TILES_A_SLIDE)
    looks = []
    labelled = 0
    for shard in pair.shards:
        for data in iterate_serialized(records / shard.file):
            record = parse_example(data, ("image/encoded", "label/weight"))
            if float(record["label/weight"]) <= 0:
                continue
            if labelled % every == 0:
                looks.append(tile_appearance(decode_jpeg(record["image/encoded"].numpy())))
            labelled += 1
    look = slide_appearance(looks)
    return None if look is None else dataclasses.replace(look, n_tiles=labelled)
