"""A start by hand: for the pair that no search finds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.fixtures.registration import ToyPair, toy_pair, toy_transform
from virtual_stain.config import RegistrationSettings, TissueSettings
from virtual_stain.errors import InputError
from virtual_stain.registration.landmarks import Landmarks, read_landmarks
from virtual_stain.registration.register import register_pair
from virtual_stain.registration.result import Registration, Verdict
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


def test_many_landmarks_tell_their_own_error_but_are_never_accepted(tmp_path: Path) -> None:
    pair = toy_pair(tmp_path, toy_transform(20))
    (tmp_path / "other").mkdir()
    other = toy_pair(tmp_path / "other", toy_transform(20), seed=50)
    registration = register(pair, marks_of(pair, 10, error_px=3.0), other.ihc)
    assert registration.verdict is Verdict.REVIEW
    assert registration.error_median_um is not None
    assert 6 < registration.error_median_um < 40  # 3 px of 4 µm along each axis


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
