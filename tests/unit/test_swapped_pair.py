"""A swapped or mislabelled pair registers as well as the right one; it was counted on H&E, and trained on."""

from pathlib import Path

import pytest

from virtual_stain.cli.main import _run
from virtual_stain.config import TissueSettings
from virtual_stain.config.phantom import settings_from_options
from virtual_stain.errors import InputError, PairError
from virtual_stain.phantom.cohort import write_cohort
from virtual_stain.slides.slide import SlideRef, open_slide
from virtual_stain.slides.tissue import find_tissue
from virtual_stain.workflows.pair_sides import require_sides
from virtual_stain.workflows.pair_stain import require_dab


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom")
    write_cohort(folder, settings_from_options({"pairs": 1, "size_mm": 0.8}), jobs=1)
    return folder / "slides"


def _sides(he: Path, ihc: Path, *, counted: bool) -> None:
    with open_slide(SlideRef(he)) as first, open_slide(SlideRef(ihc)) as second:
        tissue = [find_tissue(slide, TissueSettings()) for slide in (first, second)]
        require_sides(first, second, *tissue, counted=counted)


def test_a_swapped_pair_was_registered(slides: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    he, ihc = slides / "p001_he.tiff", slides / "p001_ihc.tiff"
    assert _run(["register", str(ihc), str(he), "--out", str(tmp_path / "o"), "-q"]) == 3
    error = capsys.readouterr().err
    assert error.count("swapped?") == 1
    assert "--force-unsuitable" in error


@pytest.mark.parametrize("counted", [False, True])
def test_the_right_order_and_two_of_one_kind(slides: Path, counted: bool) -> None:
    he, ihc = slides / "p001_he.tiff", slides / "p001_ihc.tiff"
    _sides(he, ihc, counted=counted)
    for both in (he, ihc):
        if counted:  # cells would be counted on H&E, or tiles of IHC be learned from
            with pytest.raises(PairError, match="mislabelled"):
                _sides(both, both, counted=True)
        else:  # two IHC slides, or H&E and a special stain: registration takes any
            _sides(both, both, counted=False)


def test_a_swapped_row_was_counted_on_he(slides: Path) -> None:
    with pytest.raises(PairError, match=r"swapped\?"):
        _sides(slides / "p001_ihc.tiff", slides / "p001_he.tiff", counted=True)


def test_a_stain_that_count_refuses_was_packed_into_records(slides: Path) -> None:
    with open_slide(SlideRef(slides / "p001_ihc.tiff")) as ihc:
        require_dab(ihc, ("hematoxylin_vector_from_faint_pixels",))
        with pytest.raises(InputError, match="pink, red or yellow"):
            require_dab(ihc, ("not_hematoxylin_and_dab",))
