"""The record: one spec for both directions. The writer, the parser, the verifier and `schema.v1.json` follow it.

A record is one tile of an H&E slide with the cells that were counted on the IHC side under it. In Python it is a plain
dict `feature key → value`: str for text, bytes, float, int, or a list of them where `many` is set. A value that does
not exist is an absent feature (only where `optional` is set), never 0 or −1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from virtual_stain.errors import ConfigError
from virtual_stain.markers import Marker, ValueDefinition

SCHEMA_VERSION = 1
CLASSES_UNKNOWN = "classes_unknown"
"""Flag of a tile with a tumour cell that a person called stained without saying 1+, 2+ or 3+: its ratio may train, its
intensities may not."""

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Feature:
    """One feature of `tf.train.Example`."""

    key: str
    kind: str
    """bytes | text (UTF-8 in a bytes list) | float (float32 on disk) | int (int64)."""
    meaning: str
    unit: str = ""
    many: bool = False
    optional: bool = False

    def to_dict(self) -> dict[str, Any]:
        return {
            "key": self.key,
            "kind": self.kind,
            "many": self.many,
            "optional": self.optional,
            "unit": self.unit,
            "meaning": self.meaning,
        }


FEATURES: tuple[Feature, ...] = (
    Feature("image/encoded", "bytes", "the H&E tile, JPEG, chroma not subsampled (4:4:4)"),
    Feature("image/format", "text", 'always "jpeg"'),
    Feature("image/height", "int", "height of the tile", "px"),
    Feature("image/width", "int", "width of the tile", "px"),
    Feature("image/filename", "text", "<pair>/<col>_<row>, unique in a folder"),
    Feature("tile/pair", "text", "name of the slide pair"),
    Feature("tile/patient_id", "text", "HMAC-SHA256 of the patient, hex; never a name"),
    Feature("tile/col", "int", "column in the grid of the H&E slide, from 0"),
    Feature("tile/row", "int", "row in the grid of the H&E slide, from 0"),
    Feature("tile/x_px0", "float", "left edge of the window on the H&E slide", "level-0 px"),
    Feature("tile/y_px0", "float", "top edge of the window on the H&E slide", "level-0 px"),
    Feature("tile/width_px0", "float", "width of the window on the H&E slide", "level-0 px"),
    Feature("tile/height_px0", "float", "height of the window on the H&E slide", "level-0 px"),
    Feature("tile/mpp", "float", "pixel size of the tile", "µm/px"),
    Feature("tile/tissue_fraction", "float", "share of the window that is H&E tissue, 0 to 1"),
    Feature(
        "tile/flags",
        "text",
        "few_cells, poor_overlap, border, blur_he, blur_ihc, saturated, stains_unclear, uncertain_ratio, corrected, "
        "classes_unknown",
        many=True,
    ),
    Feature("label/marker", "text", "ki67, er, pr, her2 or pdl1"),
    Feature(
        "label/value_definition",
        "text",
        "which number the label is: positive_ratio, negative_ratio, positive_count or negative_count",
    ),
    Feature("label/positive", "int", "positive tumour cells in the tile; of her2 stained ones, 1+ to 3+", "cells"),
    Feature("label/negative", "int", "negative tumour cells in the tile", "cells"),
    Feature("label/weight", "float", "1: the value may train; 0: it may not (see flags)"),
    Feature("label/usable_count", "int", "1: the number of tumour cells may train; 0: it may not"),
    Feature("cells/x", "float", "centres of the tumour cells, pixel centres at + 0.5", "tile px", many=True),
    Feature("cells/y", "float", "centres of the tumour cells, pixel centres at + 0.5", "tile px", many=True),
    Feature("cells/positive", "int", "1 positive, 0 negative, in the order of cells/x", many=True),
    Feature(
        "cells/intensity",
        "int",
        "of HER2: membrane class 0, 1, 2 or 3, in the order of cells/x; absent with the flag classes_unknown",
        many=True,
        optional=True,
    ),
    Feature(
        "cells/corrected",
        "int",
        "1 where a person set the class or added the cell; there only with the flag corrected",
        many=True,
        optional=True,
    ),
    Feature("registration/error_median_um", "float", "estimated median error at this tile", "µm", optional=True),
    Feature("registration/error_p95_um", "float", "estimated 95th percentile at this tile", "µm", optional=True),
    Feature("registration/verdict", "text", "of the pair: accept or review"),
    Feature("review/verdict", "text", "accept (by a person) or unreviewed (waiver, see the manifest)"),
    Feature("review/reviewer", "text", "who accepted; empty when unreviewed"),
    Feature("label/id", "text", "hash of both tiles' pixels, the transform and the cells, hex"),
)

BY_KEY: dict[str, Feature] = {f.key: f for f in FEATURES}

_PYTHON: dict[str, type | tuple[type, ...]] = {"bytes": bytes, "text": str, "float": (float, int), "int": int}


def problems_of(record: Mapping[str, Any]) -> list[str]:
    """Everything that is wrong with a record, as sentences; empty when it is sound."""
    problems = [f"unknown feature {key!r}" for key in record if key not in BY_KEY]
    for feature in FEATURES:
        if feature.key not in record:
            if not feature.optional:
                problems.append(f"feature {feature.key!r} is missing")
            continue
        value = record[feature.key]
        if feature.many and not isinstance(value, (list, tuple)):
            problems.append(f"{feature.key}: expected a list. Received: {type(value).__name__}")
            continue
        for item in value if feature.many else (value,):
            if not isinstance(item, _PYTHON[feature.kind]) or isinstance(item, bool):
                problems.append(f"{feature.key}: expected {feature.kind}. Received: {type(item).__name__}")
                break
            if isinstance(item, str) and "\0" in item:  # readers drop it, and with it what the record said
                problems.append(f"{feature.key}: expected a text without NUL. Received: {item!r}")
                break
            if isinstance(item, float) and not math.isfinite(item):
                problems.append(f"{feature.key}: expected a finite number. Received: {item}")
                break
    return problems or _contradictions(record)


def _contradictions(record: Mapping[str, Any]) -> list[str]:
    """Values that have the right type and cannot all be true."""
    problems: list[str] = []
    x, y, positive = record["cells/x"], record["cells/y"], record["cells/positive"]
    width, height = record["image/width"], record["image/height"]
    if not len(x) == len(y) == len(positive):
        problems.append(f"cells: expected lists of equal length. Received: {len(x)}, {len(y)}, {len(positive)}")
    elif any(not 0 <= v <= width for v in x) or any(not 0 <= v <= height for v in y):
        problems.append(f"cells: expected positions inside the tile of {width} × {height} px")
    if any(p not in (0, 1) for p in positive):
        problems.append("cells/positive: expected 0 or 1")
    problems += _class_problems(record)
    corrected = record.get("cells/corrected")
    if (corrected is not None) != ("corrected" in record["tile/flags"]):
        problems.append("cells/corrected: expected with the flag corrected, and only then")
    if corrected is not None and (len(corrected) != len(x) or any(c not in (0, 1) for c in corrected)):
        problems.append(f"cells/corrected: expected {len(x)} values 0 or 1")
    counted = (sum(positive), len(positive) - sum(positive))
    if (record["label/positive"], record["label/negative"]) != counted:
        problems.append(
            f"label: {record['label/positive']} positive and {record['label/negative']} negative, "
            f"but the cells are {counted[0]} and {counted[1]}"
        )
    if not 0 <= record["label/weight"] <= 1:
        problems.append(f"label/weight: expected 0 to 1. Received: {record['label/weight']}")
    if record["label/weight"] > 0 and not positive and not record["label/value_definition"].endswith("_count"):
        problems.append("label/weight: expected 0 for a tile without tumour cells")
    if record["label/usable_count"] not in (0, 1):
        problems.append(f"label/usable_count: expected 0 or 1. Received: {record['label/usable_count']}")
    if record["label/marker"] not in {m.value for m in Marker}:
        problems.append(f"label/marker: unknown marker {record['label/marker']!r}")
    if record["label/value_definition"] not in {v.value for v in ValueDefinition}:
        problems.append(f"label/value_definition: unknown {record['label/value_definition']!r}")
    if record["image/filename"] != filename(record["tile/pair"], record["tile/col"], record["tile/row"]):
        problems.append(f"image/filename: {record['image/filename']!r} is not that of the tile")
    return problems


def _class_problems(record: Mapping[str, Any]) -> list[str]:
    """What is wrong with the membrane classes."""
    intensities, positive = record.get("cells/intensity"), record["cells/positive"]
    wanted = record["label/marker"] == Marker.HER2 and CLASSES_UNKNOWN not in record["tile/flags"]
    if (intensities is not None) != wanted:
        return [f"cells/intensity: expected of HER2 without the flag {CLASSES_UNKNOWN}, and only then"]
    if intensities is None:
        return []
    if len(intensities) != len(positive) or any(i not in (0, 1, 2, 3) for i in intensities):
        return [f"cells/intensity: expected {len(positive)} values 0 to 3"]
    if any((i > 0) != (p == 1) for i, p in zip(intensities, positive, strict=True)):
        return ["cells/intensity: expected above 0 exactly where cells/positive is 1"]
    return []


def filename(pair: str, col: int, row: int) -> str:
    """The value of `image/filename`."""
    return f"{pair}/{col}_{row}"


def parse_place(words: Sequence[str]) -> str | int:
    """`[]` → 0, `[INDEX]` → int, `[PAIR, COL, ROW]` → the record's `image/filename`. Raises ConfigError."""
    whole = [word.isascii() and word.isdigit() for word in words]
    if not words:
        return 0
    if len(words) == 1 and whole[0]:
        return int(words[0])
    if len(words) == 3 and whole[1] and whole[2]:
        return filename(words[0], int(words[1]), int(words[2]))
    raise ConfigError(f"Expected an index, or PAIR COL ROW. Received: {' '.join(words)}")
