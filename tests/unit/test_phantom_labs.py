"""Phantom labs: the same cells as another laboratory stains and photographs them."""

from __future__ import annotations

import numpy as np
import pytest

from virtual_stain.config.phantom import LABS, PhantomSettings
from virtual_stain.phantom.cells import Kind
from virtual_stain.phantom.he_labs import HE_LAB
from virtual_stain.phantom.labs import LAB
from virtual_stain.phantom.pair import make_pair

SMALL = {"size_mm": 0.4, "he_mpp": 0.5, "ihc_mpp": 0.5, "seed": 3}


@pytest.fixture(scope="module")
def usual():
    return make_pair("p001", 0, PhantomSettings(**SMALL))


def test_every_lab_that_can_be_asked_for_is_described() -> None:
    assert LABS[1:] == tuple(LAB) == tuple(HE_LAB)


@pytest.mark.parametrize("lab", LABS[1:])
def test_a_lab_changes_both_slides_and_moves_no_nucleus(usual, lab: str) -> None:
    other = make_pair("p001", 0, PhantomSettings(lab=lab, **SMALL))
    assert np.array_equal(other.truth.ihc_nuclei.world_um, usual.truth.ihc_nuclei.world_um)
    assert np.array_equal(other.truth.he_nuclei.hematoxylin_od, usual.truth.he_nuclei.hematoxylin_od)
    assert np.array_equal(other.truth.he_nuclei.world_um, usual.truth.he_nuclei.world_um)
    assert not np.array_equal(other.he.block(650, 650, 100, 100), usual.he.block(650, 650, 100, 100))
    assert not np.array_equal(other.ihc.block(650, 650, 100, 100), usual.ihc.block(650, 650, 100, 100))


@pytest.mark.parametrize("lab", LABS[1:])
def test_positives_begin_where_the_lab_says_and_negatives_end_there(lab: str) -> None:
    nuclei = make_pair("p001", 0, PhantomSettings(lab=lab, **SMALL)).truth.ihc_nuclei
    style = LAB[lab]
    assert nuclei.dab_od[nuclei.positive].min() >= np.float32(style.positive_from_od)
    assert nuclei.dab_od[~nuclei.positive].max() <= np.float32(style.negative_most_od)


def test_vesicular_nuclei_are_much_paler_than_the_lymphocytes_among_them() -> None:
    nuclei = make_pair("p001", 0, PhantomSettings(lab="sky_blue", **SMALL)).truth.ihc_nuclei
    immune = nuclei.kind == Kind.LYMPHOCYTE
    assert immune.mean() > 0.15
    assert nuclei.positive[immune].mean() < 0.1
    typical = np.median(nuclei.hematoxylin_od[nuclei.tumour])
    assert typical < 0.5 * np.median(nuclei.hematoxylin_od[immune])


@pytest.mark.parametrize("lab", ["tinted", "clusters"])
def test_a_block_alone_has_the_pixels_of_the_whole_through_blur_and_sharpening(lab: str) -> None:
    ihc = make_pair("p001", 0, PhantomSettings(lab=lab, **SMALL)).ihc
    whole, alone = ihc.block(150, 150, 300, 300)[60:160, 90:200], ihc.block(240, 210, 110, 100)
    assert np.abs(whole.astype(int) - alone).max() <= 1  # the last bit of a blur depends on where an image begins


def test_a_lab_of_a_membrane_marker_is_refused() -> None:
    with pytest.raises(ValueError, match=r"nuclear marker.*Received: her2"):
        PhantomSettings(lab="tinted", marker="her2")


def test_a_thicker_section_is_darker_in_all_stains_and_a_blurred_scanner_shows_less(usual) -> None:
    def seen(lab: str):
        return make_pair("p001", 0, PhantomSettings(lab=lab, **SMALL)).he

    assert np.allclose(seen("broad").optics.strength / usual.he.optics.strength, [1.25 * 1.25, 1.25 * 1.25, 1.25])
    fine = {
        lab: np.diff(seen(lab).block(620, 600, 200, 200).astype(float), axis=1).std()
        for lab in ("grey_blue", "clusters")
    }
    assert fine["grey_blue"] < 0.7 * fine["clusters"]
