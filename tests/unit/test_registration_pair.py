"""register_pair on toy slides: any turn, mirror and scale; bad pairs are told from good ones."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.fixtures.registration import ToyPair, stained, toy_pair, toy_tissue, toy_transform, write_image
from virtual_stain.config import RegistrationSettings, TissueSettings
from virtual_stain.errors import NoTissueError, ResolutionError
from virtual_stain.registration.field import slope
from virtual_stain.registration.pale import tissue_of_both
from virtual_stain.registration.register import register_pair, side_images
from virtual_stain.registration.result import Registration, Verdict
from virtual_stain.slides.slide import SlideRef, open_slide
from virtual_stain.slides.tissue import find_tissue, tissue_mask


def register(pair: ToyPair, mpp: bool = True, ihc_mpp: float | None = None) -> Registration:
    he_mpp = (pair.he_mpp, pair.he_mpp) if mpp else None
    other = ihc_mpp or pair.ihc_mpp
    with (
        open_slide(SlideRef(pair.he, he_mpp)) as he,
        open_slide(SlideRef(pair.ihc, (other, other) if mpp else None)) as ihc,
    ):
        return register_pair(he, ihc, RegistrationSettings(), TissueSettings())


def errors_um(pair: ToyPair, registration: Registration) -> np.ndarray:
    points = pair.points()
    gaps = registration.transform.to_ihc(points) - pair.transform.to_ihc(points)
    return np.asarray(np.linalg.norm(gaps, axis=1) * pair.ihc_mpp)


@pytest.mark.parametrize(
    ("rotation", "mirror", "scale", "elastic"),
    [(0, False, 1.0, 0.0), (37, False, 1.0, 3.0), (180, True, 0.7, 2.0), (251, False, 1.6, 4.0)],
)
def test_any_pose_is_found(tmp_path: Path, rotation: float, mirror: bool, scale: float, elastic: float) -> None:
    pair = toy_pair(tmp_path, toy_transform(rotation, mirror=mirror, scale=scale, elastic_px=elastic))
    registration = register(pair)
    error = errors_um(pair, registration)
    assert np.percentile(error, 90) < 6.0
    assert registration.verdict is Verdict.ACCEPT
    assert registration.error_p95_um is not None
    assert np.mean(error < registration.error_p95_um) >= 0.9
    assert ("mirrored" in registration.flags) == mirror
    _, p95 = registration.error_at_um(pair.points())
    assert np.mean(error < p95) >= 0.9


def test_tissue_as_pale_as_glass_is_found_by_the_other_section(tmp_path: Path) -> None:
    """The usual thresholds find little of it: such a pair was refused or rejected."""
    pair = toy_pair(tmp_path, toy_transform(37, elastic_px=3.0))
    light = cv2.imread(str(pair.ihc)).astype(np.float64)
    write_image(pair.ihc, np.asarray(243 * (light[..., ::-1] / 243) ** 0.07, np.uint8))
    with open_slide(SlideRef(pair.ihc, (pair.ihc_mpp, pair.ihc_mpp))) as ihc:
        assert find_tissue(ihc, TissueSettings()).mask.mean() < 0.1  # of 0.25
    registration = register(pair)
    assert registration.usable
    assert np.percentile(errors_um(pair, registration), 90) < 12.0
    assert any("pale" in w for w in registration.ihc.warnings)


@pytest.mark.parametrize("ihc_mpp", [4.0, 4.0 / 1.25])
def test_missing_tissue_and_a_wrong_pixel_size_do_not_pass_for_pale_tissue(tmp_path: Path, ihc_mpp: float) -> None:
    pair = toy_pair(tmp_path, toy_transform(37))
    if ihc_mpp == 4.0:
        light = cv2.imread(str(pair.ihc))[..., ::-1].copy()
        light[:, :300] = 243
        write_image(pair.ihc, light)
    sides = open_slide(SlideRef(pair.he, (4.0, 4.0))), open_slide(SlideRef(pair.ihc, (ihc_mpp, ihc_mpp)))
    with sides[0] as he, sides[1] as ihc:
        (_, of_he), (tissue, of_ihc) = tissue_of_both((he, ihc), TissueSettings())
    assert of_he == of_ihc == TissueSettings()
    assert tissue.warnings == ()


def test_missing_tissue_and_control_tissue(tmp_path: Path) -> None:
    pair = toy_pair(tmp_path, toy_transform(120, elastic_px=3.0), missing=True, control=True)
    registration = register(pair)
    assert registration.usable
    right = pair.points()[:, 0] > 230  # the part that is there
    assert np.percentile(errors_um(pair, registration)[right], 90) < 12.0


def test_displacement_cannot_fold_and_inverts(tmp_path: Path) -> None:
    pair = toy_pair(tmp_path, toy_transform(20, elastic_px=6.0))
    transform = register(pair).transform
    assert transform.displacement is not None
    assert slope(transform.displacement) <= RegistrationSettings().max_slope_fraction
    points = pair.points()
    assert np.abs(transform.to_he(transform.to_ihc(points)) - points).max() < 0.01


@pytest.mark.parametrize("scale", [0.6, 1.7])
def test_without_pixel_size_the_scale_is_found_and_the_verdict_is_null(tmp_path: Path, scale: float) -> None:
    pair = toy_pair(tmp_path, toy_transform(75, scale=scale))
    registration = register(pair, mpp=False)
    assert registration.verdict is None
    assert not registration.usable
    assert registration.error_median_um is None
    assert registration.error_median_px0 is not None
    assert "no_mpp" in registration.flags
    assert np.median(errors_um(pair, registration)) / pair.he_mpp < 1.5
    with pytest.raises(ValueError, match="pixel sizes"):
        registration.error_at_um(pair.points())


def test_slide_of_another_block_is_rejected(tmp_path: Path) -> None:
    registration = register(toy_pair(tmp_path, toy_transform(30), ihc_seed=40))
    assert registration.verdict is Verdict.REJECT
    assert "no_consensus" in registration.flags
    assert registration.error_median_um is None


def test_slide_of_another_block_was_let_through_without_pixel_sizes(tmp_path: Path) -> None:
    registration = register(toy_pair(tmp_path, toy_transform(30), ihc_seed=40), mpp=False)
    assert registration.verdict is Verdict.REJECT
    assert registration.rejected
    assert {"no_consensus", "no_mpp"} <= set(registration.flags)
    assert registration.error_median_px0 is None


def test_wrong_pixel_size_is_never_accepted(tmp_path: Path) -> None:
    """Twice the true pixel size on one side: either rejected, or flagged with the scale that does not fit."""
    pair = toy_pair(tmp_path, toy_transform(30))
    registration = register(pair, ihc_mpp=2 * pair.ihc_mpp)
    assert registration.verdict is Verdict.REJECT


def test_small_error_of_the_pixel_size_is_absorbed(tmp_path: Path) -> None:
    pair = toy_pair(tmp_path, toy_transform(200))
    registration = register(pair, ihc_mpp=1.03 * pair.ihc_mpp)
    assert registration.verdict is Verdict.ACCEPT
    assert np.percentile(errors_um(pair, registration), 90) < 6.0


def test_same_slide_twice_is_rejected(tmp_path: Path) -> None:
    pair = toy_pair(tmp_path, toy_transform(0))
    registration = register(ToyPair(pair.he, pair.he, pair.transform, 4.0, 4.0))
    assert registration.verdict is Verdict.REJECT
    assert "same_slide" in registration.flags
    assert "same slide" in registration.reason()


def test_scale_that_contradicts_the_pixel_sizes_is_not_accepted(tmp_path: Path) -> None:
    """The IHC's pixel size stated 1.3 times too large: found all the same, but µm are doubtful then."""
    pair = toy_pair(tmp_path, toy_transform(15))
    registration = register(pair, ihc_mpp=1.3 * pair.ihc_mpp)
    assert registration.verdict is not Verdict.ACCEPT


def test_crumb_of_tissue_proves_nothing(tmp_path: Path) -> None:
    image = np.full((300, 300, 3), 243, np.uint8)
    rng = np.random.default_rng(0)
    image[140:190, 140:200] = rng.integers(90, 200, (50, 60, 3), dtype=np.uint8)
    path = write_image(tmp_path / "crumb.png", image)
    registration = register(ToyPair(path, path, toy_transform(0), 4.0, 4.0))
    assert registration.verdict is Verdict.REJECT
    assert "few_windows" in registration.flags


def test_blank_slide_has_no_tissue(tmp_path: Path) -> None:
    pair = toy_pair(tmp_path, toy_transform(0))
    blank = write_image(tmp_path / "blank.png", np.full((400, 400, 3), 243, np.uint8))
    with pytest.raises(NoTissueError, match=r"blank\.png"):
        register(ToyPair(pair.he, blank, pair.transform, 4.0, 4.0))


def test_absurd_pixel_size_is_refused(tmp_path: Path) -> None:
    pair = toy_pair(tmp_path, toy_transform(0))
    with pytest.raises(ResolutionError):
        register(pair, ihc_mpp=400.0)


def test_fragment_that_is_torn_and_turned_is_not_silently_wrong(tmp_path: Path) -> None:
    """The right part of the section turned by 25° where it lies: no place of it may keep the good error of the rest."""
    pair = toy_pair(tmp_path, toy_transform(0))
    whole = cv2.imread(str(pair.ihc))
    assert whole is not None
    edge = 330
    matrix = cv2.getRotationMatrix2D((450.0, 280.0), 25, 1.0)
    piece = whole.copy()
    piece[:, :edge] = 243
    turned = cv2.warpAffine(piece, matrix, (whole.shape[1] + 60, whole.shape[0]), borderValue=(243,) * 3)
    torn = np.full_like(turned, 243)
    torn[:, :edge] = whole[:, :edge]
    path = write_image(tmp_path / "torn.png", np.minimum(torn, turned)[..., ::-1])
    registration = register(ToyPair(pair.he, path, pair.transform, pair.he_mpp, pair.ihc_mpp))
    assert registration.verdict is Verdict.REVIEW
    assert "lost_regions" in registration.flags
    # as tiles are judged (307 µm, nine places each): every tile over the blob, whole ones of it on one side or other
    side = 307.2 / pair.he_mpp
    places = np.array([[x, y] for y in (1 / 6, 0.5, 5 / 6) for x in (1 / 6, 0.5, 5 / 6)]) * side
    dropped, wrong = [], []
    for corner in np.stack(np.meshgrid(np.arange(80, 360, 16.0), np.arange(70, 290, 16.0)), axis=-1).reshape(-1, 2):
        points = corner + places
        if np.any(((points - (250, 210)) / (165, 130)) ** 2 @ [1, 1] > 1):
            continue
        truth = pair.transform.to_ihc(points)
        lost = truth[:, 0] > edge
        truth[lost] = (truth[lost] - 0.5) @ matrix[:, :2].T + matrix[:, 2] + 0.5
        error = np.linalg.norm(registration.transform.to_ihc(points) - truth, axis=1) * pair.ihc_mpp
        wrong.append(np.median(error) > 60)
        dropped.append(np.mean(registration.error_at_um(points)[1]) > RegistrationSettings().tile_p95_um)
    wrong, dropped = np.array(wrong), np.array(dropped)
    assert wrong.sum() > 5
    assert np.mean(~dropped[wrong]) < 0.05  # half on either side of the tear, and the verdict calls for a person
    assert np.mean(dropped[~wrong]) < 0.4  # the rest of the section stays, but for what lies at the tear


def test_a_lumen_was_tissue_only_where_pixel_sizes_were_known(tmp_path: Path) -> None:
    """The same pair once had other windows, and another displacement, without pixel sizes."""
    density = cv2.resize(toy_tissue(3), (1000, 840), interpolation=cv2.INTER_LINEAR)
    cv2.circle(density, (500, 420), 40, 0.0, -1)
    path = write_image(tmp_path / "lumen.png", stained(density, (0.25, 0.55, 0.28), 1))
    masks = []
    for mpp in (3.5, None):
        ref = SlideRef(path, None if mpp is None else (mpp, mpp))
        with open_slide(ref) as he, open_slide(ref) as ihc:
            side, _ = side_images(he, ihc, RegistrationSettings(), TissueSettings())
        masks.append(side.mask)
    known, unknown = masks
    assert known.shape == unknown.shape
    assert not known[400:440, 480:520].any()
    assert (known != unknown).mean() < 0.02


def test_lumens_were_sought_on_the_whole_of_a_large_slide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A biopsy on a large slide: its overview is fine and large, and a mask of all of it took gigabytes."""
    rgb = np.full((1500, 2000, 3), 243, np.uint8)
    rgb[100:520, 100:600] = stained(toy_tissue(3), (0.25, 0.55, 0.28), 1)
    ref = SlideRef(write_image(tmp_path / "biopsy.png", rgb), (3.5, 3.5))
    sizes = []

    def seen(picture: np.ndarray, mpp_um: float, settings: TissueSettings) -> np.ndarray:
        sizes.append(picture.shape[0] * picture.shape[1])
        return tissue_mask(picture, mpp_um, settings)

    monkeypatch.setattr("virtual_stain.registration.register.tissue_mask", seen)
    with open_slide(ref) as he, open_slide(ref) as ihc:
        side, _ = side_images(he, ihc, RegistrationSettings(), TissueSettings())
    assert side.rgb.shape[:2] == (1500, 2000)
    assert len(sizes) == 2
    assert max(sizes) < 0.15 * 1500 * 2000
