from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fixtures.records import TinyRecords, tiny_record
from virtual_stain.errors import ConfigError
from virtual_stain.records.read import decode_example, parse_example
from virtual_stain.records.schema import BY_KEY, FEATURES, parse_place, problems_of
from virtual_stain.records.write import encode_example

BASE = tiny_record(np.random.default_rng(0), TinyRecords(tile_px=32), "p", 0, 0)
FLOAT32 = st.floats(width=32, allow_nan=False, allow_infinity=False)


@st.composite
def sound_records(draw: st.DrawFn) -> dict:
    cells = draw(st.lists(st.tuples(*[st.floats(0, 32, width=32)] * 2, st.integers(0, 1)), max_size=60))
    positive = [c[2] for c in cells]
    pair = draw(st.text(st.characters(categories=("L", "N")), min_size=1, max_size=8))
    col, row = draw(st.integers(0, 10**6)), draw(st.integers(0, 10**6))
    record = BASE | {
        "cells/x": [c[0] for c in cells],
        "cells/y": [c[1] for c in cells],
        "cells/positive": positive,
        "label/positive": sum(positive),
        "label/negative": len(positive) - sum(positive),
        "label/weight": draw(st.sampled_from([0.0, 1.0])) if cells else 0.0,
        "tile/pair": pair,
        "tile/col": col,
        "tile/row": row,
        "image/filename": f"{pair}/{col}_{row}",
        "tile/x_px0": draw(FLOAT32),
        "tile/flags": draw(st.lists(st.sampled_from(["few_cells", "border", "blur_he"]), unique=True)),
        "review/reviewer": draw(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)),
    }
    if draw(st.booleans()):
        del record["registration/error_p95_um"]
    if draw(st.booleans()):
        record["tile/flags"] = [*record["tile/flags"], "corrected"]
        record["cells/corrected"] = draw(st.lists(st.integers(0, 1), min_size=len(cells), max_size=len(cells)))
    return record


@settings(max_examples=60, deadline=None)
@given(sound_records())
def test_whatever_is_sound_comes_back_as_it_was_both_ways(record: dict) -> None:
    assert problems_of(record) == []
    data = encode_example(record)
    back = decode_example(data)
    assert encode_example(back) == data
    parsed = parse_example(data)
    for feature in FEATURES:
        if feature.key not in record:
            assert feature.key not in back
            value = parsed[feature.key].numpy()
            assert value.shape == (0,) if feature.many else np.isnan(value)
            continue
        here, there = record[feature.key], parsed[feature.key].numpy()
        if feature.kind in ("text", "bytes"):
            there = [t.decode() if feature.kind == "text" else t for t in np.atleast_1d(there).tolist()]
            assert there == (here if feature.many else [here])
        elif feature.kind == "float":
            np.testing.assert_array_equal(there, np.float32(here))
            np.testing.assert_array_equal(np.float32(back[feature.key]), np.float32(here))
        else:
            np.testing.assert_array_equal(there, here)
            assert back[feature.key] == here


@given(st.sampled_from(sorted(BY_KEY)), st.one_of(st.none(), st.binary(max_size=4), st.complex_numbers()))
def test_a_value_of_another_kind_is_always_a_problem(key: str, value: object) -> None:
    if BY_KEY[key].kind != "bytes" or not isinstance(value, bytes):
        assert problems_of(BASE | {key: value})


def test_places() -> None:
    assert parse_place([]) == 0
    assert parse_place(["12"]) == 12
    assert parse_place(["case-1", "3", "04"]) == "case-1/3_4"
    for words in (["case-1"], ["a", "b", "c"], ["a", "1"], ["-1"], ["²"]):
        with pytest.raises(ConfigError, match="index, or PAIR COL ROW"):
            parse_place(words)
