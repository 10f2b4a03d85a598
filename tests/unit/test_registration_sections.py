"""Several sections of one block on the IHC slide: which is taken, that it is said, and how to ask for another."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.fixtures.registration import ToyPair, ihc_density, stained, toy_pair, toy_tissue, toy_transform, write_image
from virtual_stain.cli.main import _run
from virtual_stain.config import RegistrationSettings, TissueSettings
from virtual_stain.errors import InputError
from virtual_stain.geometry import Size
from virtual_stain.pairs import read_slide_pairs
from virtual_stain.registration.register import register_pair
from virtual_stain.registration.result import Registration
from virtual_stain.registration.store import read_registration
from virtual_stain.slides.slide import SlideRef, open_slide

_BESIDE = 640  # px between the two sections


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> ToyPair:
    """On the IHC slide the neighbouring section lies on the right, one further off in the block on the left."""
    folder = tmp_path_factory.mktemp("sections")
    near = toy_pair(folder, toy_transform(20))
    picture = cv2.imread(str(near.ihc))
    assert picture is not None
    further = toy_tissue(1)
    own = np.clip(further * (0.4 + 0.6 * toy_tissue(31)[::-1] / 0.9), 0, 1.6) * (further > 0)
    moved = ihc_density(np.asarray(own, np.float32), toy_transform(-40), Size(580, 570))
    left = stained(moved, (0.34, 0.30, 0.18), 400)[..., ::-1]
    both = np.full((570, _BESIDE + 580, 3), 243, np.uint8)
    both[:, :580] = left
    both[:, _BESIDE:] = picture[:570, :580]
    return ToyPair(near.he, write_image(folder / "two.png", both[..., ::-1]), near.transform, near.he_mpp, near.ihc_mpp)


def register(pair: ToyPair, section: int | None = None) -> Registration:
    he_ref, ihc_ref = SlideRef(pair.he, (pair.he_mpp,) * 2), SlideRef(pair.ihc, (pair.ihc_mpp,) * 2)
    with open_slide(he_ref) as he, open_slide(ihc_ref) as ihc:
        return register_pair(he, ihc, RegistrationSettings(), TissueSettings(), section=section)


def test_the_better_section_is_taken_and_the_choice_is_said(pair: ToyPair) -> None:
    found = register(pair)
    assert [s.number for s in found.sections] == [1, 2]
    assert [s.taken for s in found.sections] == [False, True]
    assert found.sections[0].box.x1 < 600 < found.sections[1].box.x
    further, near = (s.correlation or 0.0 for s in found.sections)
    assert near > further + 0.05
    points = pair.points()
    there = pair.transform.to_ihc(points) + np.array([_BESIDE, 0.0])
    assert np.median(np.linalg.norm(found.transform.to_ihc(points) - there, axis=1)) < 3
    told = found.section_taken()
    assert told is not None
    assert told.startswith("2 of 2")
    assert "the next is 1" in told


def test_another_section_is_registered_where_it_is_asked_for(pair: ToyPair) -> None:
    found = register(pair, section=1)
    assert [s.taken for s in found.sections] == [True, False]
    x = found.transform.to_ihc(pair.points())[:, 0]
    assert np.median(x) < 580
    with pytest.raises(InputError, match="from 1 to 2"):
        register(pair, section=3)


def test_one_section_with_a_control_is_no_choice(tmp_path: Path) -> None:
    found = register(toy_pair(tmp_path, toy_transform(0), control=True))
    assert found.sections == ()
    assert found.section_taken() is None


def test_option_page_and_table(pair: ToyPair, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    words = ["register", str(pair.he), str(pair.ihc), "--mpp-he", "4", "--mpp-ihc", "4", "--out", str(out)]
    assert _run(words) == 0
    assert "section 2 of 2" in capsys.readouterr().out
    assert "2 of 2 on the IHC slide" in (out / "registration.html").read_text(encoding="utf-8")
    document = json.loads((out / "registration.json").read_text(encoding="utf-8"))
    assert [s["taken"] for s in document["sections"]] == [False, True]
    assert [s.number for s in read_registration(out).sections] == [1, 2]
    # another section is another registration
    _run([*words, "--section", "1"])
    document = json.loads((out / "registration.json").read_text(encoding="utf-8"))
    assert [s["taken"] for s in document["sections"]] == [True, False]


def test_the_table_has_a_column_for_it(pair: ToyPair, tmp_path: Path) -> None:
    table = tmp_path / "pairs.csv"
    row = f"{pair.he},{pair.ihc}"
    table.write_text(f"pair,he,ihc,section\na,{row},1\nb,{row},2\nc,{row},\n", encoding="utf-8")
    assert [p.section for p in read_slide_pairs(table)] == [1, 2, None]
    table.write_text(f"pair,he,ihc,section\na,{row},0\n", encoding="utf-8")
    with pytest.raises(InputError, match="section: expected a number from 1"):
        read_slide_pairs(table)
