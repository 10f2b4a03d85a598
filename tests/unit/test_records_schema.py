from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.fixtures.records import TinyRecords, tiny_record
from tools.write_schema import schema_json
from virtual_stain.records.schema import FEATURES, problems_of

ROOT = Path(__file__).parents[2]


def _record() -> dict:
    return tiny_record(np.random.default_rng(1), TinyRecords(), "p1", 0, 0)


def test_the_committed_schema_is_the_one_of_the_code() -> None:
    committed = json.loads((ROOT / "tfrecords" / "schema.v1.json").read_text(encoding="utf-8"))
    assert committed == schema_json()


def test_keys_are_unique_and_documented() -> None:
    assert len({f.key for f in FEATURES}) == len(FEATURES)
    readme = (ROOT / "tfrecords" / "README.md").read_text(encoding="utf-8")
    assert [f.key for f in FEATURES if f"`{f.key}`" not in readme] == []


def test_a_sound_record_has_no_problems() -> None:
    assert problems_of(_record()) == []


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("label/positive", 1, "but the cells are"),
        ("label/weight", 1.5, "expected 0 to 1"),
        ("label/weight", float("nan"), "finite"),
        ("label/marker", "her3", "unknown marker"),
        ("cells/x", [1.0], "equal length"),
        ("tile/col", 7, "is not that of the tile"),
        ("tile/col", True, "expected int"),
        ("image/encoded", "text", "expected bytes"),
        ("tile/flags", "border", "expected a list"),
        ("colour", 1, "unknown feature"),
    ],
)
def test_a_wrong_value_is_named(key: str, value: object, expected: str) -> None:
    problems = problems_of(_record() | {key: value})
    assert any(expected in p for p in problems), problems


def test_a_cell_outside_the_tile_is_a_problem() -> None:
    record = _record()
    record["cells/x"] = [200.0, *record["cells/x"][1:]]
    assert any("inside the tile" in p for p in problems_of(record))


def test_an_optional_value_may_be_absent_and_no_other() -> None:
    record = _record()
    del record["registration/error_median_um"]
    assert problems_of(record) == []
    del record["label/id"]
    assert problems_of(record) == ["feature 'label/id' is missing"]
