"""The phantom's signal: H&E nuclei tell the ratio up to a known ceiling, and the colour of a tile does not."""

from __future__ import annotations

import numpy as np
import pytest

from virtual_stain.config.phantom import PhantomBiology, PhantomSettings
from virtual_stain.phantom.ceiling import fit_ceiling, pearson_r, ridge_ceiling, slide_ratio
from virtual_stain.phantom.pair import make_pair
from virtual_stain.phantom.pyramid import StripSource
from virtual_stain.phantom.tile_table import WINDOW_UM

PATIENTS = 6


@pytest.fixture(scope="module")
def cohort():
    """Default patients: fields and cells, nothing is rendered."""
    return [make_pair(f"p{i}", i, PhantomSettings(seed=11)).truth.tiles for i in range(PATIENTS)]


def test_ceiling_of_the_default_phantom_is_0_75_to_0_85(cohort) -> None:
    ceilings = [ridge_ceiling(cohort[:k] + cohort[k + 1 :], [cohort[k]]) for k in range(PATIENTS)]
    assert 0.75 <= np.mean([c.within_patient_r for c in ceilings]) <= 0.85
    two = ridge_ceiling(cohort[2:], cohort[:2])
    assert 0.65 <= two.pooled_r <= 0.9
    assert len(two.per_patient_r) == 2


def test_the_offset_of_a_patient_is_not_in_the_nuclei(cohort) -> None:
    """A regression on the true nuclei gives every slide nearly the same reading: it tells tiles apart, not patients."""
    ceilings = [ridge_ceiling(cohort[:k] + cohort[k + 1 :], [cohort[k]]) for k in range(PATIENTS)]
    read = np.array([slide_ratio(t, c.predicted[0]) for t, c in zip(cohort, ceilings, strict=True)])
    true = np.array([slide_ratio(t, t.ratio[t.usable]) for t in cohort])
    assert np.abs(read - true).mean() > 0.04
    assert pearson_r(read, true) < 0.5


def test_the_offset_of_a_patient_is_in_the_nuclei_where_it_is_asked_for() -> None:
    biology = PhantomBiology(patient_logit_sd=1.0, patient_coupling=0.84)
    settings = PhantomSettings(seed=11, size_mm=1.2, biology=biology)
    tables = [make_pair(f"p{i}", i, settings).truth.tiles for i in range(PATIENTS)]
    read = [slide_ratio(t, ridge_ceiling(tables[:k] + tables[k + 1 :], [t]).predicted[0]) for k, t in enumerate(tables)]
    assert pearson_r(np.array(read), np.array([slide_ratio(t, t.ratio[t.usable]) for t in tables])) > 0.8


def test_tiles_are_rich_in_tumour_cells_and_the_field_varies_strongly(cohort) -> None:
    for tiles in cohort:
        tissue = tiles.tissue_fraction >= 0.5
        assert np.mean(tiles.usable[tissue]) > 0.85
        assert 150 < np.median(tiles.he_tumour[tiles.usable]) < 500
        ratio = tiles.ratio[tiles.usable]
        assert ratio.max() - ratio.min() > 0.3
        assert ratio.std() > 0.08


def _mean_tile_colours(slide: StripSource) -> np.ndarray:
    """float64[tiles, 3]: mean RGB (0–255) of each window of the grid, row by row from the top left.

    `slide` is rendered once, strip by strip; pixels belong to the tile that holds their centre.
    """
    columns = int(np.ceil(slide.size.width * slide.mpp / WINDOW_UM - 1e-9))
    rows = int(np.ceil(slide.size.height * slide.mpp / WINDOW_UM - 1e-9))
    total = np.zeros((rows, columns, 3))
    number = np.zeros((rows, columns))
    column_of = ((np.arange(slide.size.width) + 0.5) * slide.mpp / WINDOW_UM).astype(np.intp)
    edges = np.searchsorted(column_of, np.arange(columns))
    top = 0
    for strip in slide.strips(512):
        row_of = ((np.arange(top, top + len(strip)) + 0.5) * slide.mpp / WINDOW_UM).astype(np.intp)
        for row in np.unique(row_of):
            part = strip[row_of == row]
            total[row] += np.add.reduceat(part.sum(axis=0, dtype=np.float64), edges, axis=0)
            number[row] += np.diff(np.append(edges, slide.size.width)) * len(part)
        top += len(strip)
    return (total / number[..., None]).reshape(-1, 3)


def test_mean_colour_of_a_tile_hardly_tells_its_ratio() -> None:
    data = []
    for index in range(5):
        pair = make_pair("p", index, PhantomSettings(size_mm=1.7, seed=0, he_mpp=2.0, ihc_mpp=2.0))
        usable = pair.truth.tiles.usable
        density = -np.log10(_mean_tile_colours(pair.he)[usable] / 245)
        data.append((density, pair.truth.tiles.ratio[usable]))
    rs = [fit_ceiling(data[:k] + data[k + 1 :], [data[k]]).within_patient_r for k in range(len(data))]
    assert abs(float(np.mean(rs))) < 0.35
    # the stain of the slide moves the colour more than the whole spread of ratios does
    between = np.std([density.mean(axis=0) for density, _ in data], axis=0)
    slope = [np.abs([np.polyfit(y, x[:, c], 1)[0] for c in range(3)]) * y.std() for x, y in data]
    assert (between > np.mean(slope, axis=0)).all()


def test_patients_without_coupling_have_no_signal() -> None:
    settings = PhantomSettings(size_mm=1.6, seed=4, he_mpp=2.0, ihc_mpp=2.0, biology=PhantomBiology(coupling=0.0))
    tables = [make_pair(f"p{i}", i, settings).truth.tiles for i in range(5)]
    rs = [ridge_ceiling(tables[:k] + tables[k + 1 :], [tables[k]]).within_patient_r for k in range(5)]
    assert abs(float(np.mean(rs))) < 0.3


def test_ceiling_refuses_too_few_tiles() -> None:
    few = (np.zeros((2, 3)), np.zeros(2))
    with pytest.raises(ValueError, match="12 training tiles"):
        fit_ceiling([few], [few])


def test_pearson_r_matches_numpy_and_is_zero_for_constants() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random(50), rng.random(50)
    assert pearson_r(a, b) == pytest.approx(np.corrcoef(a, b)[0, 1])
    assert pearson_r(a, np.ones(50)) == 0.0
