"""Where no IHC tissue lies under the H&E's, no error is stated, whatever the windows around say."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.fixtures.registration import ToyPair, plain_registration, toy_pair, toy_transform, write_image
from virtual_stain.config import RegistrationSettings, TissueSettings
from virtual_stain.geometry import Affine2D
from virtual_stain.registration.bare import BareTissue, bare_cells, cut_pieces, nothing_bare, with_pieces
from virtual_stain.registration.foreground import Foreground
from virtual_stain.registration.register import register_pair
from virtual_stain.registration.result import Registration, Verdict
from virtual_stain.registration.store import read_registration, write_registration
from virtual_stain.slides.slide import SlideRef, open_slide

_EDGE = 340  # px: what lies to the right of it is gone
_PLACES = np.stack(np.meshgrid(np.arange(100, 400, 12.0), np.arange(100, 320, 12.0)), axis=-1).reshape(-1, 2)


def tissue(shape: tuple[int, int] = (80, 120)) -> np.ndarray:
    result = np.zeros(shape, np.bool_)
    result[10:70, 10:110] = True
    return result


def test_outlines_that_differ_a_little_are_not_bare() -> None:
    he = tissue()
    under = np.zeros_like(he)
    under[14:66, 14:106] = True
    assert not bare_cells(he, under, error=1.0, outline=6.0).any()
    assert bare_cells(he, under, error=1.0, outline=3.0).any()


def test_what_was_torn_off_is_bare_up_to_the_tear() -> None:
    he = tissue()
    under = he.copy()
    under[:, 80:] = False
    bare = bare_cells(he, under, error=1.0, outline=8.0)
    assert not bare[:, :82].any()
    assert bare[10:70, 83:110].all()
    assert not bare[~he].any()


def test_a_lumen_of_a_lost_part_is_lost_with_it_and_glass_is_not() -> None:
    he = tissue()
    he[30:38, 90:98] = False
    under = he.copy()
    under[:, 70:] = False
    bare = bare_cells(he, under, error=1.0, outline=8.0)
    assert bare[30:38, 90:98].all()
    assert not bare[:5].any()
    assert not bare[:, 115:].any()


def test_an_ihc_without_any_tissue_there_leaves_all_bare() -> None:
    he = tissue()
    assert np.array_equal(bare_cells(he, np.zeros_like(he), error=1.0, outline=4.0), he)
    assert not bare_cells(he, np.ones_like(he), error=1.0, outline=4.0).any()


def test_a_larger_error_asks_for_more_distance() -> None:
    he = tissue()
    under = he.copy()
    under[:, 80:] = False
    near, far = (bare_cells(he, under, error=e, outline=8.0) for e in (1.0, 7.0))
    assert near[40, 84]
    assert not far[40, 84]
    assert far[40, 92]


def test_bare_ground_cuts_tissue_into_pieces() -> None:
    he = tissue()
    he[20:25, 30:34] = False  # a lumen parts nothing
    bare = np.zeros_like(he)
    bare[40:60] = he[40:60]
    pieces = cut_pieces(he, bare)
    assert sorted(np.unique(pieces)) == [0, 1, 2]
    assert np.array_equal(pieces > 0, he & ~bare)
    assert len(np.unique(pieces[10:40][he[10:40]])) == len(np.unique(pieces[60:70][he[60:70]])) == 1
    # ground that ends within the tissue cuts nothing off, and neither does a thread of tissue join
    bare[40:60, 90:] = False
    assert sorted(np.unique(cut_pieces(he, bare))) == [0, 1]
    bare[40:60, 93:] = he[40:60, 93:]
    assert sorted(np.unique(cut_pieces(he, bare))) == [0, 1, 2]


def test_glass_at_the_rim_of_a_moved_piece_is_no_ground_to_judge_a_tile_by() -> None:
    work = np.zeros((160, 240), np.bool_)
    work[20:140, 20:220] = True
    he = Foreground(*(np.zeros(work.shape, np.float32),) * 2, work, Affine2D.identity("px0", "work"), np.full(3, 240.0))
    bare = BareTissue(np.zeros((80, 120), np.bool_), (0.0, 0.0), (2.0, 2.0))
    taken = np.zeros((80, 120), np.bool_)
    taken[60:70, 10:110] = True
    told = with_pieces(bare, he, taken)
    assert told.at([[100.0, 130.0], [100.0, 150.0]]).all()
    assert not told.at([[100.0, 60.0], [100.0, 10.0], [10.0, 60.0]]).any()
    assert with_pieces(bare, he, np.zeros_like(taken)) is bare


def test_tissue_that_borders_no_bare_ground_was_not_cut_off() -> None:
    he = tissue()
    he[:, 55:65] = False
    bare = np.zeros_like(he)
    bare[50:70] = he[50:70] & (np.arange(120) > 60)
    pieces = cut_pieces(he, bare)
    assert not pieces[:, :60].any()
    assert pieces[10:50, 65:110].all()
    assert not cut_pieces(he, np.zeros_like(he)).any()
    assert not cut_pieces(he, he).any()


def test_places_outside_the_cells_are_not_bare() -> None:
    bare = BareTissue(np.ones((2, 3), np.bool_), (100.0, 200.0), (10.0, 20.0))
    inside = [[100.0, 200.0], [129.9, 239.9], [115.0, 220.0]]
    outside = [[99.9, 210.0], [130.0, 210.0], [110.0, 240.0], [110.0, 199.9], [-1e9, 1e9]]
    assert bare.at(inside).all()
    assert not bare.at(outside).any()
    assert not nothing_bare().at(inside).any()


def test_a_bare_place_has_no_error_and_the_file_says_so(tmp_path: Path) -> None:
    bare = BareTissue(np.array([[False, True]]), (0.0, 0.0), (200.0, 400.0))
    before = plain_registration(toy_transform(10, elastic_px=2.0), bare=bare)
    write_registration(dataclasses.replace(before, bare_fraction=0.4, flags=("bare_regions",)), tmp_path)
    after = read_registration(tmp_path)
    for registration in (before, after):
        median, p95 = registration.error_at_um([[100.0, 100.0], [300.0, 100.0]])
        assert np.isfinite([median[0], p95[0]]).all()
        assert np.isposinf([median[1], p95[1]]).all()
        assert registration.bare_at([[100.0, 100.0], [300.0, 100.0]]).tolist() == [False, True]
    assert after.bare_fraction == 0.4
    assert "without the 40% of the H&E tissue" in after.reason()


def cut_pair(folder: Path, *, moved: bool) -> ToyPair:
    """The right part of the section is gone from its place; `moved`: turned, and far below."""
    pair = toy_pair(folder, toy_transform(0))
    whole = cv2.imread(str(pair.ihc))
    assert whole is not None
    edge = round(float(pair.transform.to_ihc([[float(_EDGE), 210.0]])[0, 0]))
    torn = np.full((whole.shape[0] + 420, whole.shape[1] + 120, 3), 243, np.uint8)
    torn[: whole.shape[0], :edge] = whole[:, :edge]
    if moved:
        piece = whole.copy()
        piece[:, :edge] = 243
        matrix = cv2.getRotationMatrix2D((450.0, 280.0), 25, 1.0)
        matrix[:, 2] += (20, 330)
        turned = cv2.warpAffine(piece, matrix, (torn.shape[1], torn.shape[0]), borderValue=(243,) * 3)
        torn = np.minimum(torn, turned)
    path = write_image(folder / "torn.png", torn[..., ::-1])
    return ToyPair(pair.he, path, pair.transform, pair.he_mpp, pair.ihc_mpp)


def register(pair: ToyPair) -> Registration:
    he_ref, ihc_ref = SlideRef(pair.he, (pair.he_mpp,) * 2), SlideRef(pair.ihc, (pair.ihc_mpp,) * 2)
    with open_slide(he_ref) as he, open_slide(ihc_ref) as ihc:
        return register_pair(he, ihc, RegistrationSettings(), TissueSettings())


@pytest.mark.parametrize("moved", [True, False], ids=["moved", "missing"])
def test_a_fragment_that_had_moved_far_kept_a_small_stated_error(tmp_path: Path, moved: bool) -> None:
    """No window lies on bare glass, so none could tell: the pair was accepted without a word, and half of the places
    on the fragment kept the p95 of the rest."""
    pair = cut_pair(tmp_path, moved=moved)
    registration = register(pair)
    inside = ((_PLACES - (250, 210)) / (150, 118)) ** 2 @ [1, 1] < 1
    gone, stays = _PLACES[inside & (_PLACES[:, 0] > _EDGE + 8)], _PLACES[inside & (_PLACES[:, 0] < _EDGE - 8)]
    assert len(gone) > 10
    assert len(stays) > 100
    assert np.isposinf(registration.error_at_um(gone)[1]).all()
    assert np.isposinf(registration.error_at_um(gone)[0]).all()
    # the rest of the section is as right as it was, says so, and the pair is accepted
    error = np.linalg.norm(registration.transform.to_ihc(stays) - pair.transform.to_ihc(stays), axis=1) * pair.ihc_mpp
    _, p95 = registration.error_at_um(stays)
    assert np.percentile(error, 90) < 12.0
    assert np.mean(np.isfinite(p95)) > 0.97
    assert np.mean(error < p95) >= 0.9
    assert "bare_regions" in registration.flags
    assert registration.verdict is Verdict.ACCEPT
    assert 0.05 < registration.bare_fraction < 0.3
    # tissue without a counterpart has no part in the figures of the pair
    assert registration.error_p95_um is not None
    assert registration.error_p95_um < 60.0


def test_a_whole_pair_has_nothing_bare(tmp_path: Path) -> None:
    registration = register(toy_pair(tmp_path, toy_transform(60, elastic_px=3.0)))
    assert registration.flags == ()
    assert registration.bare_fraction < 0.01
