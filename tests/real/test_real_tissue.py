"""The tissue mask on real pen marks, cover-slip edges and tiles named by content, with stated bounds.

Pixel sizes of the thumbnails are unknown and assumed from their extent; the mask depends on them only weakly.
"""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from virtual_stain.config import TissueSettings
from virtual_stain.slides.slide import SlideRef, open_slide
from virtual_stain.slides.tissue import find_tissue
from virtual_stain.slides.tissue_mask import tissue_mask

DATA = os.environ.get("VSTAIN_REALDATA")
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(DATA is None, reason="VSTAIN_REALDATA is unset: no real thumbnails to test on"),
]
ROOT = Path(DATA or ".")
SETTINGS = TissueSettings()


def _rgb(path):
    with Image.open(path) as image:
        rgba = image.convert("RGBA")
        return np.asarray(Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB"))


# file, assumed µm/px, least share of the hand-drawn pen or edge that is masked out, least share of H&E kept
MARKED = [
    ("models/pen_markings_he/pen_green", 80, 0.93, 0.98),
    ("models/pen_markings_he/pen_red", 40, 0.85, 0.99),
    ("pen/1k_version/pen_green", 20, 0.98, 0.98),
    ("pen/1k_version/pen_red", 20, 0.68, 0.99),  # half of what is left is thin smear on top of tissue
    ("pen/1k_version/pen_black", 10, 0.90, None),
    ("models/coverslip_edge_he/coverslip_edge", 20, 0.75, 0.99),
    ("models/coverslip_edge_ihc/coverslip_edge", 12, 0.85, None),
]


@pytest.mark.parametrize(("name", "mpp_um", "least_out", "least_kept"), MARKED)
def test_marks_are_masked_out_and_tissue_is_kept(name, mpp_um, least_out, least_kept):
    rgb = _rgb(ROOT / "histoqc" / "data" / f"{name}.png")
    marked = _rgb(ROOT / "histoqc" / "data" / f"{name}_mask.png")[..., 0] > 127
    mask = tissue_mask(rgb, mpp_um, SETTINGS)
    masked_out = 1 - mask[marked].mean()
    assert masked_out >= least_out
    if least_kept is not None:
        # beyond doubt H&E: green absorbed most, blue clearly less, and not near a mark
        r, g, b = np.moveaxis(-np.log10((cv2.GaussianBlur(rgb, (0, 0), 1) + 1.0) / 243), -1, 0)
        tissue = (
            (g > 0.1) & (g > r + 0.04) & (b < 0.7 * g) & (cv2.dilate(marked.astype(np.uint8), np.ones((15, 15))) == 0)
        )
        assert tissue.mean() > 0.05
        assert mask[tissue].mean() >= least_kept


GLASS = {"no-tissue": 0.0, "no-tissue2": 0.04, "no-tissue-line": 0.03, "no-tissue-green-pen": 0.04}
GLASS |= {"almost-white-1": 0.0, "almost-white-2": 0.08, "almost-white-ihc": 0.0}
GLASS |= {"liver-level2-38626-13514-39426-14315": 0.0, "no-tissue-red-pen": 0.25}
TISSUE = {
    "high-nuclei-score-level0": (0.5, 0.95),
    "medium-nuclei-score-level0": (0.5, 0.95),
    "medium-nuclei-score-level1": (2, 0.9),
    "medium-nuclei-score-level1-2": (2, 0.95),
    "high-nuclei-score-red-pen-level1": (2, 0.85),
    "very-low-nuclei-score-level0": (0.5, 0.95),
    "low-nuclei-score-level1": (2, 0.8),  # fat
    "tissue-level0-4302-10273-4814-10785": (0.5, 0.9),
    "tissue-level0-7352-11762-7864-12274": (0.5, 0.8),
    "tissue-level2-1784-6289-5880-10386": (8, 0.7),
    "tissue-level2-3000-7666-7096-11763": (8, 0.75),
    "liver-level2-10907-7808-11707-8608": (8, 0.95),
    "kidney-ihc-level0-310-500-360-530": (20, 0.75),
    "kidney-ihc-level0-340-520-390-550": (20, 0.75),
}


@pytest.mark.parametrize("name", GLASS)
def test_tiles_called_empty_are_empty(name):
    mpp_um = 8 if "level2" in name else 20 if "ihc" in name else 4
    assert (
        tissue_mask(_rgb(ROOT / "he_tiles_histolab" / "tiles" / f"{name}.png"), mpp_um, SETTINGS).mean() <= GLASS[name]
    )


@pytest.mark.parametrize("name", TISSUE)
def test_tiles_called_tissue_are_tissue(name):
    mpp_um, least = TISSUE[name]
    assert tissue_mask(_rgb(ROOT / "he_tiles_histolab" / "tiles" / f"{name}.png"), mpp_um, SETTINGS).mean() >= least


@pytest.mark.parametrize(
    ("name", "low", "high"), [("Rat-Kidney_HE", 0.60, 0.75), ("Rat-Kidney_PanCytokeratin", 0.57, 0.72)]
)
def test_both_stains_of_a_section_are_found_to_the_same_extent(name, low, high):
    """Pale counterstain covers most of the IHC section; the sections' outlines take 0.66 and 0.64 of the pictures."""
    path = ROOT / "birl_pairs" / "rat-kidney_" / "scale-5pc" / f"{name}.jpg"
    with open_slide(SlideRef(path, (3.5, 3.5))) as slide:
        assert low < find_tissue(slide, SETTINGS).mask.mean() < high


@pytest.mark.parametrize("index", [1, 2, 3, 5])
def test_five_stains_of_one_specimen_have_about_one_area(index):
    """0.38–0.41 of the picture each, without the green frame drawn in; 4 is a silver stain, which is out of scope."""
    mask = tissue_mask(_rgb(ROOT / "valis_ihc_thumbs" / "masks" / f"ihc_{index}.png"), 40, SETTINGS)
    assert 0.34 < mask.mean() < 0.44


@pytest.mark.parametrize("name", ["22_2", "34_3", "6_2"])
def test_ki67_fields_are_tissue(name):
    path = next((ROOT / "deepliif").glob(f"*/{name}.png"), None)
    if path is None:
        pytest.skip(f"{name}.png is not in this copy of the data")
    assert tissue_mask(_rgb(path), 0.25, SETTINGS).mean() > 0.9


@pytest.mark.parametrize("name", ["OS-2-ndpi", "OS-2-vsi"])
def test_a_pale_ki67_region_is_found_and_its_lumens_are_glass(name):
    with open_slide(SlideRef(ROOT / "qupath_os1_os2_ometiff" / f"{name}.ome.tif")) as slide:
        mask = find_tissue(slide, SETTINGS).mask
    assert 0.85 < mask.mean() < 0.99
    height, width = mask.shape
    assert mask[int(0.75 * height) : int(0.85 * height), : int(0.12 * width)].mean() < 0.1
