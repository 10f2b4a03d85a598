"""Pale vesicular tumour nuclei beside dark lymphocytes: found, whole, and nothing else with them."""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt
import pytest

from tests.fixtures.counting import matches
from virtual_stain.config.counting import CountingSettings
from virtual_stain.config.phantom import PhantomSettings
from virtual_stain.counting.contours import Rays, trace
from virtual_stain.counting.count import Counted, count_image
from virtual_stain.counting.nuclei import find_nuclei
from virtual_stain.counting.seeds import blur
from virtual_stain.counting.stain import TOO_LARGE, examine_stain
from virtual_stain.counting.vesicles import _WALL_UM
from virtual_stain.markers import Marker
from virtual_stain.phantom.cells import Nuclei
from virtual_stain.phantom.pair import make_pair

SETTINGS = CountingSettings()
MPP, SIDE = 0.5, 500


@functools.cache
def field() -> tuple[Counted, Nuclei, npt.NDArray[np.float64], npt.NDArray[np.intp], tuple[str, ...]]:
    """A count of a field of the lab; its true nuclei, their places, pairs of found and true, and the stain's flags."""
    pair = make_pair("p001", 0, PhantomSettings(lab="vesicular", size_mm=0.4, he_mpp=MPP, ihc_mpp=MPP, seed=3))
    x, y = (pair.ihc.size.width - SIDE) // 2, (pair.ihc.size.height - SIDE) // 2
    rgb = pair.ihc.block(x, y, SIDE, SIDE)
    at = pair.truth.ihc_cells.xy - (x, y)
    inside = ((at >= 0) & (at < SIDE)).all(axis=1)
    stain = examine_stain([rgb], SETTINGS, MPP).stain
    counted = count_image(rgb, (MPP, MPP), Marker.KI67, stain, SETTINGS)
    nuclei = pair.truth.ihc_nuclei.select(inside)
    return counted, nuclei, at[inside], matches(counted.cells.xy, at[inside], 6 / MPP), stain.flags


def test_pale_vesicular_nuclei_are_found_beside_dark_lymphocytes() -> None:
    """The typical nucleus was a lymphocyte, and a third of the tumour nuclei had too little contrast for it."""
    counted, nuclei, at, pairs, _ = field()
    vesicular = nuclei.chromatin > 1
    assert vesicular.sum() > 100
    found = np.isin(np.arange(len(at)), pairs[:, 1])
    assert found[vesicular].mean() > 0.8
    assert found[~vesicular].mean() > 0.95
    assert len(pairs) > 0.93 * len(counted.cells)


def test_vesicular_nuclei_are_outlined_whole_and_so_are_tumour() -> None:
    """Nucleoli and pieces of the wall stood for some of them: small outlines, which no tumour nucleus has."""
    counted, nuclei, _, pairs, _ = field()
    vesicular = nuclei.chromatin[pairs[:, 1]] > 1
    ours, true = counted.cells.area_um2[pairs[:, 0]][vesicular], nuclei.area_um2[pairs[:, 1]][vesicular]
    assert np.median(ours / true) == pytest.approx(1, abs=0.2)
    assert counted.cells.tumour[pairs[:, 0]][vesicular].mean() > 0.9


def test_large_vesicular_nuclei_are_no_wrong_pixel_size() -> None:
    assert TOO_LARGE not in field()[4]


def rim(signal: npt.NDArray[np.float32], x: float, y: float, radius_px: float, strength: float) -> None:
    rows, columns = np.mgrid[: signal.shape[0], : signal.shape[1]]
    distance = np.hypot(columns - x, rows - y)
    np.maximum(signal, strength * np.exp(-np.square((distance - radius_px) / 1.5)), out=signal)


def disc(signal: npt.NDArray[np.float32], x: float, y: float, radius_px: float, strength: float) -> None:
    rows, columns = np.mgrid[: signal.shape[0], : signal.shape[1]]
    np.maximum(signal, strength * (np.hypot(columns - x, rows - y) <= radius_px), out=signal)


def test_a_ring_of_lymphocytes_around_an_empty_place_is_no_vesicle() -> None:
    signal = np.zeros((120, 120), np.float32)
    for angle in np.arange(7) * (2 * np.pi / 7):
        disc(signal, 60 + 14 * np.cos(angle), 60 + 14 * np.sin(angle), 5.5, 0.6)
    found = find_nuclei(blur(signal, 0.8), 0.6, 0.5, SETTINGS)
    assert found.count == 7
    assert np.hypot(*(found.centroid - 60.5).T).min() > 10


def test_a_faint_wall_with_a_nucleolus_is_one_nucleus() -> None:
    """Its wall has half the typical nucleus' density and its middle hardly any: it was not found."""
    signal = np.zeros((80, 80), np.float32)
    rim(signal, 40, 40, 12, 0.3)
    disc(signal, 40, 40, 13, 0.09)
    disc(signal, 44, 38, 2, 0.36)
    found = find_nuclei(blur(signal, 0.8), 0.6, 0.5, SETTINGS)
    assert found.count == 1
    assert found.shape.area_px[0] == pytest.approx(np.pi * 13.5**2, rel=0.1)


def test_a_rise_within_the_wall_costs_nothing_and_one_further_in_does() -> None:
    signal = np.zeros((80, 80), np.float32)
    rim(signal, 40, 40, 12, 0.3)
    disc(signal, 40, 40, 3, 0.12)
    rays = Rays.between(1.25, 9.0, 0.5, 32)
    plain, walled = (
        trace(signal, np.array([[40.0, 40.0]]), 0.5, rays, wall_um).radius_um for wall_um in (0.0, _WALL_UM)
    )
    assert np.median(walled) == pytest.approx(6.5, abs=0.6)
    assert np.median(plain) < 3
