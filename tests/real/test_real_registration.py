"""Registration of real serial sections against landmarks that people set."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.fixtures.registration import write_image
from tests.fixtures.slides import rewrap_as_tiled_tiff
from virtual_stain.config import RegistrationSettings, TissueSettings
from virtual_stain.geometry import Points
from virtual_stain.registration.register import register_pair
from virtual_stain.registration.result import Registration, Verdict
from virtual_stain.slides.slide import SlideRef, open_slide

ROOT = os.environ.get("VSTAIN_REALDATA")
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(ROOT is None, reason="VSTAIN_REALDATA does not name the folder of real slides"),
]

MPP = 3.5  # by assumption: the images are 5 % of full scale
PAIRS = {
    "lung": ("lesions_/scale-5pc/Izd2-29-041-w35_HE", "lesions_/scale-5pc/Izd2-29-041-w35_proSPC"),
    "kidney": ("rat-kidney_/scale-5pc/Rat-Kidney_HE", "rat-kidney_/scale-5pc/Rat-Kidney_PanCytokeratin"),
}
BEST_AFFINE_PX = {"lung": 5.9, "kidney": 3.5}  # median residual of the affine fitted to the landmarks themselves


@dataclass(frozen=True)
class Landmarked:
    he: Path
    ihc: Path
    he_points: Points
    ihc_points: Points

    def errors_px(self, registration: Registration) -> np.ndarray:
        gaps = registration.transform.to_ihc(self.he_points) - self.ihc_points
        return np.asarray(np.linalg.norm(gaps, axis=1))


def landmarked(name: str) -> Landmarked:
    base = Path(ROOT or "") / "birl_pairs"
    he, ihc = (base / stem for stem in PAIRS[name])
    points = [_points(p.with_name(p.name + ".csv")) for p in (he, ihc)]
    n = min(len(p) for p in points)
    return Landmarked(he.with_name(he.name + ".jpg"), ihc.with_name(ihc.name + ".jpg"), points[0][:n], points[1][:n])


def _points(path: Path) -> Points:
    with path.open(encoding="utf-8") as stream:
        # set on pixels: their centres lie at + 0.5
        return np.array([[float(r["X"]), float(r["Y"])] for r in csv.DictReader(stream)]) + 0.5


def register(he: Path, ihc: Path, he_mpp: float | None = MPP, ihc_mpp: float | None = MPP) -> Registration:
    refs = [SlideRef(p, None if m is None else (m, m)) for p, m in ((he, he_mpp), (ihc, ihc_mpp))]
    with open_slide(refs[0]) as a, open_slide(refs[1]) as b:
        return register_pair(a, b, RegistrationSettings(), TissueSettings())


def turned(pair: Landmarked, folder: Path, degrees: float, mirror: bool, scale: float) -> Landmarked:
    """The same pair with its IHC image turned, mirrored and rescaled on a white canvas."""
    image = cv2.imread(str(pair.ihc))
    assert image is not None
    height, width = image.shape[:2]
    a = np.deg2rad(degrees)
    linear = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]) @ np.diag([-1.0 if mirror else 1.0, 1.0])
    linear *= scale
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64) @ linear.T
    low = corners.min(axis=0)
    size = np.ceil(np.ptp(corners, axis=0) - 1e-6).astype(int)
    index = np.c_[linear, linear @ [0.5, 0.5] - low - 0.5]
    if scale < 1:
        image = cv2.GaussianBlur(image, (0, 0), 0.5 / scale)
    moved = cv2.warpAffine(image, index, (int(size[0]), int(size[1])), flags=cv2.INTER_CUBIC, borderValue=(255,) * 3)
    path = write_image(folder / "ihc.png", np.asarray(moved[..., ::-1], np.uint8))
    return Landmarked(pair.he, path, pair.he_points, pair.ihc_points @ linear.T - low)


@pytest.mark.parametrize("name", list(PAIRS))
def test_error_is_that_of_the_best_affine_or_less(name: str) -> None:
    pair = landmarked(name)
    registration = register(pair.he, pair.ihc)
    error = pair.errors_px(registration)
    diagonal = registration.ihc.size.diagonal
    print(f"\n{name}: rTRE median {np.median(error) / diagonal:.4f}, p90 {np.percentile(error, 90) / diagonal:.4f}")
    assert np.median(error) <= 1.1 * BEST_AFFINE_PX[name]
    assert registration.verdict is Verdict.ACCEPT
    _, p95 = registration.error_at_um(pair.he_points)
    assert np.mean(error * MPP < p95) >= 0.9


VARIANTS = [
    ("lung", 37, False, 1.0),
    ("lung", 180, True, 0.7),
    ("kidney", 90, True, 0.5),
    ("kidney", 251, False, 1.5),
]
_TURNS = ((90, False, 1.0), (140, True, 2.0), (180, False, 0.5), (251, True, 1.5))
MORE = [pytest.param(name, *turn, marks=pytest.mark.slow) for name in PAIRS for turn in _TURNS]


@pytest.mark.parametrize(("name", "degrees", "mirror", "scale"), VARIANTS + MORE)
def test_turned_mirrored_rescaled(tmp_path: Path, name: str, degrees: float, mirror: bool, scale: float) -> None:
    pair = turned(landmarked(name), tmp_path, degrees, mirror, scale)
    registration = register(pair.he, pair.ihc, MPP, MPP / scale)
    error = pair.errors_px(registration) / scale
    assert np.median(error) <= 1.1 * BEST_AFFINE_PX[name]
    assert registration.usable


@pytest.mark.parametrize(("name", "scale"), [("lung", 1.6), pytest.param("kidney", 0.5, marks=pytest.mark.slow)])
def test_scale_is_found_without_pixel_sizes(tmp_path: Path, name: str, scale: float) -> None:
    pair = turned(landmarked(name), tmp_path, 140, False, scale)
    registration = register(pair.he, pair.ihc, None, None)
    assert registration.verdict is None
    assert np.median(pair.errors_px(registration) / scale) <= 1.1 * BEST_AFFINE_PX[name]


@pytest.mark.parametrize(("he", "ihc"), [("kidney", "lung"), ("lung", "kidney")])
@pytest.mark.parametrize("mpp", [MPP, None])
def test_other_organ_is_rejected(he: str, ihc: str, mpp: float | None) -> None:
    """Also without pixel sizes, where such pairs once got no verdict, and exit code 0."""
    registration = register(landmarked(he).he, landmarked(ihc).ihc, mpp, mpp)
    assert registration.verdict is Verdict.REJECT
    assert "no_consensus" in registration.flags


def test_one_slide_on_two_scanners_is_the_same_section(tmp_path: Path) -> None:
    """Real cells that coincide: recognised as such, and placed to less than a nucleus."""
    scans = Path(ROOT or "") / "qupath_os1_os2_ometiff"
    first = rewrap_as_tiled_tiff(scans / "OS-2-ndpi.ome.tif", tmp_path / "ndpi.tiff", 0.2271)
    second = rewrap_as_tiled_tiff(scans / "OS-2-vsi.ome.tif", tmp_path / "vsi.tiff", 0.34605)
    registration = register(first, second, None, None)
    assert registration.verdict is Verdict.ACCEPT
    assert "same_cells" in registration.flags
    assert registration.error_p95_um is not None
    assert registration.error_p95_um < 2.0
    scale = registration.transform.ihc_from_he.scales
    assert scale == pytest.approx((0.2271 / 0.34605,) * 2, rel=0.005)


def test_serial_sections_are_not_taken_for_the_same_one() -> None:
    pair = landmarked("kidney")
    # at 1 µm/px by pretence, so that the question is asked at all
    assert "same_cells" not in register(pair.he, pair.ihc, 1.0, 1.0).flags


def test_fragment_turned_upside_down_comes_out_upright() -> None:
    """A torn specimen, one slide turned by about 180°; no landmarks, so by angle and overlap. The sections lie apart
    and a pixel is 40 µm: the place is found, but nothing proves it well enough to be used."""
    folder = Path(ROOT or "") / "valis_ihc_thumbs" / "masks"
    registration = register(folder / "ihc_2.png", folder / "ihc_5.png", 40.0, 40.0)
    assert 160 < abs(registration.transform.ihc_from_he.rotation_deg) <= 180
    assert not registration.transform.ihc_from_he.mirrored
    assert registration.overlap_fraction > 0.75
    assert registration.verdict is Verdict.REJECT
