from __future__ import annotations

import numpy as np
import pytest

from virtual_stain.config.counting import CountingSettings
from virtual_stain.counting.cells import CellClass, Cells
from virtual_stain.counting.readings import NO_CELLS, nuclear_intensity, read_cells

SETTINGS = CountingSettings()
THRESHOLD = 0.15


def cells_with(dab_od: list[float], tumour: list[bool] | None = None, other: int = 0) -> Cells:
    od = np.array(dab_od + [0.9] * other, np.float32)
    kind = np.where(od >= THRESHOLD, CellClass.POSITIVE, CellClass.NEGATIVE).astype(np.uint8)
    if other:
        kind[-other:] = CellClass.OTHER
    flags = [True] * len(dab_od) if tumour is None else tumour
    return Cells(
        xy=np.zeros((len(od), 2)),
        cell_class=kind,
        tumour=np.array(flags + [False] * other, np.bool_),
        dab_od=od,
        area_um2=np.ones(len(od), np.float32),
    )


def test_h_score_and_allred_by_hand() -> None:
    # 6 negative, 1 of 1+, 2 of 2+, 1 of 3+: 10·1 + 20·2 + 10·3 = 80
    readings = read_cells(cells_with([0.0] * 6 + [0.2, 0.45, 0.5, 0.7]), SETTINGS, tumour_only=True)
    assert readings.by_intensity == (1, 2, 1)
    assert readings.h_score == pytest.approx(80)
    assert readings.ratio == pytest.approx(0.4)
    assert readings.standard_error == pytest.approx((0.4 * 0.6 / 10) ** 0.5)
    assert (readings.allred_proportion, readings.allred_intensity, readings.allred) == (4, 2, 6)  # mean OD 0.4625


@pytest.mark.parametrize(
    ("positive", "proportion"), [(0, 0), (1, 1), (9, 1), (10, 2), (99, 2), (100, 3), (333, 3), (334, 4), (667, 5)]
)
def test_allred_proportion_bins_are_half_open(positive: int, proportion: int) -> None:
    readings = read_cells(cells_with([0.3] * positive + [0.0] * (1000 - positive)), SETTINGS, tumour_only=True)
    assert readings.allred_proportion == proportion


def test_none_positive_reads_zero_and_not_none() -> None:
    readings = read_cells(cells_with([0.0] * 5), SETTINGS, tumour_only=True)
    assert (readings.ratio, readings.h_score, readings.allred) == (0.0, 0.0, 0)
    assert "reason" not in readings.to_dict()


def test_no_cells_read_null_with_a_reason_and_never_zero() -> None:
    for cells in (Cells.empty(), cells_with([0.5, 0.0], tumour=[False, False]), cells_with([], other=3)):
        value = read_cells(cells, SETTINGS, tumour_only=True).to_dict()
        assert value["reason"] == NO_CELLS
        for name in ("ratio", "standard_error", "h_score", "allred", "mean_positive_dab_od"):
            assert value[name] is None


def test_other_objects_count_nowhere() -> None:
    readings = read_cells(cells_with([0.5, 0.0], other=7), SETTINGS, tumour_only=False)
    assert (readings.positive, readings.negative) == (1, 1)


def test_tumour_and_all_nuclei_are_read_apart() -> None:
    cells = cells_with([0.5, 0.5, 0.0, 0.0], tumour=[True, True, True, False])
    assert read_cells(cells, SETTINGS, tumour_only=True).ratio == pytest.approx(2 / 3)
    assert read_cells(cells, SETTINGS, tumour_only=False).ratio == pytest.approx(1 / 2)


def test_intensity_classes_begin_at_their_cut_offs() -> None:
    od = np.array([0.5, 0.2, 0.39, 0.4, 0.6], np.float32)
    positive = np.array([False, True, True, True, True])
    assert nuclear_intensity(od, positive, SETTINGS).tolist() == [0, 1, 1, 2, 3]
