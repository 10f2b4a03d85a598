"""A swapped or mislabelled pair registers as well as the right one; it was counted on H&E, and trained on."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from virtual_stain.cli.main import _run
from virtual_stain.config import TissueSettings
from virtual_stain.config.phantom import settings_from_options
from virtual_stain.errors import InputError, PairError
from virtual_stain.phantom.cohort import write_cohort
from virtual_stain.slides.slide import SlideRef, open_slide
from virtual_stain.slides.tissue import find_tissue
from virtual_stain.workflows.pair_sides import require_sides, swapped
from virtual_stain.workflows.pair_stain import require_dab


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom")
    write_cohort(folder, settings_from_options({"pairs": 1, "size_mm": 0.8}), jobs=1)
    return folder / "slides"


def _sides(he: Path, ihc: Path, check: Callable[..., object] = require_sides) -> object:
    with open_slide(SlideRef(he)) as first, open_slide(SlideRef(ihc)) as second:
        tissue = [find_tissue(slide, TissueSettings()) for slide in (first, second)]
        return check(first, second, *tissue)


def test_a_swapped_pair_was_registered_without_a_word(
    slides: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    he, ihc = slides / "p001_he.tiff", slides / "p001_ihc.tiff"
    for _ in range(2):  # the second time it is kept
        caplog.clear()
        assert _run(["register", str(ihc), str(he), "--out", str(tmp_path / "o"), "-q"]) == 0
        assert caplog.text.count("swapped?") == 1
    assert "swapped?" in (tmp_path / "o" / "registration.html").read_text()
    assert json.loads((tmp_path / "o" / "registration.json").read_text())["verdict"] != "reject"


def test_the_right_order_and_two_of_one_kind(slides: Path) -> None:
    he, ihc = slides / "p001_he.tiff", slides / "p001_ihc.tiff"
    _sides(he, ihc)
    assert _sides(he, ihc, swapped) == ""
    for both in (he, ihc):
        with pytest.raises(PairError, match="mislabelled"):
            _sides(both, both)
        assert _sides(both, both, swapped) == ""  # two IHC slides, or H&E and a special stain: registration takes any


def test_a_swapped_row_was_counted_on_he(slides: Path) -> None:
    with pytest.raises(PairError, match=r"swapped\?"):
        _sides(slides / "p001_ihc.tiff", slides / "p001_he.tiff")


def test_a_stain_that_count_refuses_was_packed_into_records(slides: Path) -> None:
    with open_slide(SlideRef(slides / "p001_ihc.tiff")) as ihc:
        require_dab(ihc, ("hematoxylin_vector_from_faint_pixels",))
        with pytest.raises(InputError, match="pink, red or yellow"):
            require_dab(ihc, ("not_hematoxylin_and_dab",))
