"""Black grains are told from dense DAB by their colour."""

from __future__ import annotations

import numpy as np
import pytest

from virtual_stain.counting.cells import CellClass, Cells
from virtual_stain.counting.pigment import count_black, pigment_warning
from virtual_stain.counting.quality import Quality
from virtual_stain.counting.slide_stain import SlideStain
from virtual_stain.counting.windows import FoundCells


@pytest.mark.parametrize(
    ("dab_vector", "black"), [((0.563, 0.578, 0.591), 3), ((0.42, 0.63, 0.65), 0), ((0.27, 0.57, 0.78), 0)]
)
def test_dense_cells_without_colour_are_black(dab_vector, black):
    """A negative field with 300 carbon grains read 4 % positive, and nothing was said."""
    kinds = np.array([CellClass.POSITIVE] * 3 + [CellClass.NEGATIVE], np.uint8)
    cells = Cells(np.zeros((4, 2)), kinds, np.ones(4, bool), np.full(4, 1.5, np.float32), np.full(4, 40, np.float32))
    columns = {"hematoxylin_od": np.full(4, 0.1, np.float32)}
    quality = Quality(0, 0, 0.0, 0.0, None)
    found = FoundCells(cells, np.zeros(4, np.uint8), columns, (None,) * 4, quality)
    assert count_black(found, SlideStain((240, 240, 240), dab=dab_vector)) == black


def test_their_share_is_told_where_there_are_many():
    assert pigment_warning(4, 4) == ()
    assert pigment_warning(5, 100) == ()
    assert "160 of 200 positive cells (80%)" in pigment_warning(160, 200)[0]
