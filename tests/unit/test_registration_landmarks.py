"""A start by hand: for the pair that no search finds."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from tests.fixtures.registration import ToyPair, toy_pair, toy_transform
from virtual_stain.config import RegistrationSettings, TissueSettings
from virtual_stain.errors import InputError
from virtual_stain.registration import manual
from virtual_stain.registration.landmarks import Landmarks, read_landmarks
from virtual_stain.registration.precision import no_precision
from virtual_stain.registration.quality import Evidence
from virtual_stain.registration.register import register_pair
from virtual_stain.registration.result import Registration, Verdict
from virtual_stain.registration.store import read_registration, write_registration
from virtual_stain.slides.slide import SlideRef, open_slide

HEADER = "he_x,he_y,ihc_x,ihc_y\n"


def register(pair: ToyPair, marks: Landmarks | None, ihc: Path | None = None) -> Registration:
    refs = SlideRef(pair.he, (pair.he_mpp,) * 2), SlideRef(ihc or pair.ihc, (pair.ihc_mpp,) * 2)
    with open_slide(refs[0]) as a, open_slide(refs[1]) as b:
        return register_pair(a, b, RegistrationSettings(starts=1), TissueSettings(), marks)


def marks_of(pair: ToyPair, count: int, error_px: float) -> Landmarks:
    he = pair.points(40)[:: 40 // count][:count]
    return Landmarks(he, pair.transform.to_ihc(he) + np.random.default_rng(4).normal(0, error_px, (count, 2)))


def test_rough_landmarks_are_a_start(tmp_path: Path) -> None:
    pair = toy_pair(tmp_path, toy_transform(140, mirror=True, elastic_px=3.0))
    registration = register(pair, marks_of(pair, 3, error_px=6.0))
    points = pair.points()
    error = np.linalg.norm(registration.transform.to_ihc(points) - pair.transform.to_ihc(points), axis=1)
    assert np.median(error) < 1.0  # px: better than what a person marked
    assert registration.verdict is Verdict.ACCEPT
    assert "manual" in registration.flags


def test_landmarks_on_unrelated_slides_prove_nothing(tmp_path: Path) -> None:
    """Three wrong marks must not turn a rejection into an acceptance."""
    pair = toy_pair(tmp_path, toy_transform(20))
    (tmp_path / "other").mkdir()
    other = toy_pair(tmp_path / "other", toy_transform(20), seed=50)
    registration = register(pair, marks_of(pair, 3, error_px=2.0), other.ihc)
    assert registration.verdict is Verdict.REJECT
    assert "manual_only" in registration.flags


def test_landmarks_that_nothing_confirms_state_no_error(tmp_path: Path) -> None:
    """How well they fit one another is in words; it once stood as the pair's error in µm, for tiles as well."""
    pair = toy_pair(tmp_path, toy_transform(20))
    (tmp_path / "other").mkdir()
    other = toy_pair(tmp_path / "other", toy_transform(20), seed=50)
    registration = register(pair, marks_of(pair, 10, error_px=3.0), other.ihc)
    assert registration.verdict is Verdict.REVIEW
    assert registration.error_median_um is None
    assert registration.error_p95_um is None
    assert np.isinf(registration.error_at_um(pair.points())[1]).all()
    assert registration.landmark_residual_px0 is not None
    assert 2 < registration.landmark_residual_px0 < 10  # 3 px along each axis
    assert "fit residual" in registration.reason()
    write_registration(registration, tmp_path / "out")
    assert read_registration(tmp_path / "out").reason() == registration.reason()


def test_landmarks_that_agree_with_one_another_but_are_all_wrong_were_passed_as_review(tmp_path: Path) -> None:
    """Mirrored, x and y swapped, both slides taken for each other: the search proves where they belong."""
    pair = toy_pair(tmp_path, toy_transform(20))
    good = marks_of(pair, 8, error_px=0.5)
    mirrored = Landmarks(good.he_px0, np.c_[580 - good.ihc_px0[:, 0], good.ihc_px0[:, 1]])
    swapped, reversed_ = Landmarks(good.he_px0, good.ihc_px0[:, ::-1]), Landmarks(good.ihc_px0 * 0.8, good.he_px0)
    for marks in (mirrored, swapped, reversed_):
        registration = register(pair, marks)
        assert registration.verdict is Verdict.REJECT
        assert "landmarks_contradicted" in registration.flags
        assert registration.error_median_um is None
        assert np.isinf(registration.error_at_um(pair.points())[1]).all()


def test_landmarks_at_the_place_that_the_search_proves_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where refining them leads nowhere, and the search finds what they say, that is confirmed and not contradicted."""
    pair = toy_pair(tmp_path, toy_transform(20))
    real = manual.align_from
    nothing = {"evidence": Evidence(40, 0.0, 0.0), "precision": no_precision()}
    monkeypatch.setattr(manual, "align_from", lambda *a: dataclasses.replace(real(*a), **nothing))
    registration = register(pair, marks_of(pair, 6, error_px=4.0))
    assert registration.verdict is Verdict.ACCEPT
    assert registration.flags[0] == "manual"
    points = pair.points()
    error = np.linalg.norm(registration.transform.to_ihc(points) - pair.transform.to_ihc(points), axis=1)
    assert np.median(error) < 1.0


def test_landmarks_outside_the_scan_are_refused_with_their_row(tmp_path: Path) -> None:
    pair = toy_pair(tmp_path, toy_transform(20))
    path = tmp_path / "marks.csv"
    path.write_text(HEADER + "100,100,100,-50\n400,100,400,-50\n100,300,100,150\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"marks\.csv: row 2: 100, -50 is not on the IHC"):
        register(pair, read_landmarks(path)[""])


def test_landmarks_alone_without_pixel_sizes_are_rejected(tmp_path: Path) -> None:
    pair = toy_pair(tmp_path, toy_transform(20))
    (tmp_path / "other").mkdir()
    other = toy_pair(tmp_path / "other", toy_transform(20), seed=50)
    with open_slide(SlideRef(pair.he)) as a, open_slide(SlideRef(other.ihc)) as b:
        settings = RegistrationSettings(starts=1)
        registration = register_pair(a, b, settings, TissueSettings(), marks_of(pair, 10, error_px=3.0))
    assert registration.verdict is Verdict.REJECT
    assert "without pixel sizes" in registration.reason()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x,y\n1,2\n", "he_x"),
        (HEADER, "at least 3"),
        (HEADER + "1,2,3,4\n5,6,7,8\n", "at least 3"),
        (HEADER + "0,0,0,0\n1,1,1,1\n2,2,2,2\n", "line"),
        (HEADER + "0,0,0,0\n1,x,1,1\n2,2,2,2\n", "row 3"),
        (HEADER + "0,0,0,0\n100,0,0,20\n0,100,300,0\n", "swapped"),
    ],
)
def test_bad_landmarks_are_refused(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "marks.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=told):
        read_landmarks(path)


def test_landmarks_of_several_pairs(tmp_path: Path) -> None:
    path = tmp_path / "marks.csv"
    rows = [f"{p},{x},{y},{x + 1},{y}" for p in ("a", "b") for x, y in ((0, 0), (50, 0), (0, 50))]
    path.write_text("pair," + HEADER + "\n".join(rows) + "\n", encoding="utf-8-sig")
    found = read_landmarks(path)
    assert set(found) == {"a", "b"}
    assert np.allclose(found["b"].ihc_from_he().matrix, [[1, 0, 1], [0, 1, 0], [0, 0, 1]])


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_landmarks_with_semicolons_or_tabs_were_refused(tmp_path: Path, separator: str) -> None:
    path = tmp_path / "marks.csv"
    path.write_text((HEADER + "0,0,1,0\n50,0,51,0\n0,50,1,50\n").replace(",", separator), encoding="utf-8")
    assert np.allclose(read_landmarks(path)[""].ihc_from_he().matrix, [[1, 0, 1], [0, 1, 0], [0, 0, 1]])
