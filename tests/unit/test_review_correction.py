"""Corrections: what a person changes about the counted cells, and what comes out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fixtures.review import tiny_cells
from virtual_stain.counting.cells import CellClass
from virtual_stain.review.correction import CLASSES, Correction, cell_names, correct

CELLS = tiny_cells(np.random.default_rng(3), 40, 256, 0.4)


def test_classes_are_set_cells_removed_and_added() -> None:
    names = cell_names(CELLS)
    positive, ignored = names.index("positive"), names.index("ignored")
    gone = len(CELLS) - 1
    correction = Correction.parse(
        {
            "changed": [[positive, "negative"], [ignored, "positive"]],
            "removed": [gone],
            "added": [[10.004, 20, "negative"]],
        }
    )
    done = correct(CELLS, correction)
    before, after = CELLS.counts(), done.counts
    assert after.positive == before.positive - (names[gone] == "positive")
    assert after.negative == before.negative + 2 - (names[gone] == "negative")
    assert len(done.cells) == len(CELLS)
    assert done.touched.sum() == 3
    assert done.cells.xy[-1].tolist() == [10.0, 20.0]
    assert np.isnan(done.cells.dab_od[-1])
    assert (done.cells.xy[:-1] == CELLS.xy[:-1]).all()


def test_what_is_ignored_keeps_its_stain_and_leaves_the_ratio() -> None:
    positive = cell_names(CELLS).index("positive")
    done = correct(CELLS, Correction(changed=((positive, "ignored"),)))
    assert done.cells.cell_class[positive] == CellClass.POSITIVE
    assert not done.cells.tumour[positive]
    assert done.counts.positive == CELLS.counts().positive - 1


def test_all_cells_can_go() -> None:
    done = correct(CELLS, Correction(removed=tuple(range(len(CELLS)))))
    assert done.counts.total == 0
    assert done.counts.ratio is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("[1", "expected JSON"),
        ("[]", "expected an object"),
        ({"moved": []}, "expected an object"),
        ({"changed": [[1, "purple"]]}, "expected positive, negative, ignored"),
        ({"changed": [[-1, "positive"]]}, "index of a cell"),
        ({"changed": [[True, "positive"]]}, "index of a cell"),
        ({"changed": [[1, "positive"]], "removed": [1]}, "named twice"),
        ({"removed": [1, 1]}, "named twice"),
        ({"added": [[float("nan"), 1, "positive"]]}, "position in tile px"),
        ({"added": [[1, 1]]}, r"expected \[x, y, class\]"),
        ({"removed": 3}, "expected lists"),
    ],
)
def test_nonsense_is_refused(value: object, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        Correction.parse(value)  # type: ignore[arg-type]


def test_a_correction_of_another_label_is_seen() -> None:
    assert Correction(removed=(len(CELLS),)).problem(CELLS, 256)
    assert Correction(added=((256.0, 1.0, "positive"),)).problem(CELLS, 256)
    assert Correction(removed=(len(CELLS) - 1,), added=((255.9, 0.0, "positive"),)).problem(CELLS, 256) is None
    with pytest.raises(ValueError, match="expected cells 0 to"):
        correct(CELLS, Correction(removed=(len(CELLS),)))


_INDEX = st.integers(0, len(CELLS) - 1)
_KIND = st.sampled_from(CLASSES)


@given(
    st.dictionaries(_INDEX, st.one_of(st.none(), _KIND), max_size=20),
    st.lists(st.tuples(st.floats(0, 255), st.floats(0, 255), _KIND), max_size=5),
)
def test_json_reads_back_and_counts_are_those_of_the_names(
    touched: dict[int, str | None], added: list[tuple[float, float, str]]
) -> None:
    correction = Correction.parse(
        {
            "changed": [[i, k] for i, k in touched.items() if k],
            "removed": [i for i, k in touched.items() if k is None],
            "added": [list(a) for a in added],
        }
    )
    assert Correction.parse(correction.to_json()) == correction
    done = correct(CELLS, correction)
    names = [touched.get(i, n) for i, n in enumerate(cell_names(CELLS)) if touched.get(i, n)] + [a[2] for a in added]
    assert cell_names(done.cells) == names
    assert (done.counts.positive, done.counts.negative) == (names.count("positive"), names.count("negative"))
