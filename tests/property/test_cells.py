import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from virtual_stain.counting.cells import CellClass, Cells

cell = st.tuples(st.floats(0, 100), st.floats(0, 100), st.sampled_from(list(CellClass)), st.booleans())


def _cells(rows) -> Cells:
    n = len(rows)
    return Cells(
        xy=np.array([r[:2] for r in rows], np.float64).reshape(n, 2),
        cell_class=np.array([r[2] for r in rows], np.uint8),
        tumour=np.array([r[3] for r in rows], np.bool_),
        dab_od=np.zeros(n, np.float32),
        area_um2=np.ones(n, np.float32),
    )


@given(st.lists(cell, max_size=20), st.lists(cell, max_size=20))
def test_counts_are_additive_and_only_tumour_cells_enter_the_ratio(a, b):
    together = Cells.concatenated([_cells(a), _cells(b)])
    for only in (True, False):
        assert together.counts(tumour_only=only) == _cells(a).counts(tumour_only=only) + _cells(b).counts(
            tumour_only=only
        )
    wanted = [r for r in a + b if r[3]]
    assert together.counts().positive == sum(r[2] == CellClass.POSITIVE for r in wanted)
    assert together.counts().negative == sum(r[2] == CellClass.NEGATIVE for r in wanted)


@given(st.lists(cell, max_size=20))
def test_selecting_all_or_none(rows):
    cells = _cells(rows)
    assert len(cells.select(np.zeros(len(cells), np.bool_))) == 0
    assert cells.select(np.arange(len(cells))).xy.tolist() == cells.xy.tolist()
