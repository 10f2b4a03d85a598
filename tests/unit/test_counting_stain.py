from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from tests.fixtures.counting import DAB, HEMATOXYLIN, FieldStyle, f1_score, stained_field
from virtual_stain.config.counting import CountingSettings
from virtual_stain.counting import background, vectors
from virtual_stain.counting.cells import CellClass
from virtual_stain.counting.count import count_cells
from virtual_stain.counting.optical_density import PUBLISHED_HEMATOXYLIN, optical_density, separate
from virtual_stain.counting.slide_stain import SlideStain
from virtual_stain.counting.stain import (
    BROWN,
    BROWN_OUTSIDE,
    FEW_NUCLEI,
    FEW_POSITIVES,
    NO_NEGATIVES,
    PALE,
    TOO_LARGE,
    estimate_stain,
)
from virtual_stain.errors import InputError
from virtual_stain.markers import Marker

SETTINGS = CountingSettings()


def angle_deg(a: tuple[float, float, float], b: tuple[float, float, float]) -> float:
    cosine = np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b)
    return float(np.degrees(np.arccos(min(1.0, cosine))))


def test_unmixing_gives_back_what_was_mixed() -> None:
    h, d = vectors.unit(HEMATOXYLIN), vectors.unit(DAB)
    density = np.array([[0.4 * np.array(h) + 0.7 * np.array(d)]], np.float32)
    amount_h, amount_d, residual = separate(density, h, d)
    assert amount_h[0, 0] == pytest.approx(0.4, abs=1e-5)
    assert amount_d[0, 0] == pytest.approx(0.7, abs=1e-5)
    assert residual[0, 0] == pytest.approx(0, abs=1e-5)


def test_optical_density_is_finite_and_not_negative() -> None:
    density = optical_density(np.array([[[0, 255, 240]]], np.uint8), (240.0, 240.0, 240.0))
    assert np.isfinite(density).all()
    assert density.min() == 0
    assert density[0, 0, 0] == pytest.approx(np.log10(241), rel=1e-6)


@pytest.mark.parametrize("positive_fraction", [0.05, 0.3, 0.9])
def test_stain_vectors_are_found_with_few_and_with_many_positives(positive_fraction: float) -> None:
    field = stained_field(positive_fraction=positive_fraction)
    stain = estimate_stain([field.rgb], SETTINGS, field.mpp)
    assert angle_deg(stain.hematoxylin, HEMATOXYLIN) < 10
    assert angle_deg(stain.dab, DAB) < 10  # positive nuclei carry hematoxylin too
    assert np.allclose(stain.background, (236, 234, 238), atol=3)


@pytest.mark.parametrize("cast", [(0.8, 0.8, 0.8), (1.0, 0.92, 0.85), (0.85, 0.95, 1.0)])
def test_a_colour_cast_goes_into_the_background_and_nowhere_else(cast: tuple[float, float, float]) -> None:
    field = stained_field()
    tinted = np.clip(field.rgb * np.array(cast), 0, 255).astype(np.uint8)
    plain, under_cast = (estimate_stain([image], SETTINGS, field.mpp) for image in (field.rgb, tinted))
    assert angle_deg(plain.hematoxylin, under_cast.hematoxylin) < 3
    assert angle_deg(plain.dab, under_cast.dab) < 3
    assert under_cast.positive_od == pytest.approx(plain.positive_od, rel=0.1)


def test_all_negative_falls_back_to_the_published_dab_and_says_so() -> None:
    field = stained_field(positive_fraction=0)
    stain = estimate_stain([field.rgb], SETTINGS, field.mpp)
    assert vectors.DAB_PUBLISHED in stain.flags
    assert FEW_POSITIVES in stain.flags
    assert 0.1 < stain.positive_od < 0.25  # what other slides are like


def test_all_positive_says_that_negatives_are_unknown() -> None:
    style = FieldStyle(cytoplasm_od=0)
    field = stained_field(positive_fraction=1, style=style)
    stain = estimate_stain([field.rgb], SETTINGS, field.mpp)
    assert FEW_NUCLEI in stain.flags
    assert vectors.HEMATOXYLIN_PUBLISHED in stain.flags


def test_pink_and_blue_is_not_taken_for_dab() -> None:
    field = stained_field(positive_fraction=0.4, style=FieldStyle(dab=(0.2, 0.85, 0.48), positive_od=0.5))
    assert vectors.OTHER_STAIN in estimate_stain([field.rgb], SETTINGS, field.mpp).flags


@pytest.mark.parametrize(
    "chromogen",
    [(0.85, 0.50, 0.15), (0.88, 0.42, 0.25), (0.75, 0.35, 0.56), (0.45, 0.78, 0.43)],
    ids=["blue", "teal", "green", "purple"],
)
def test_a_chromogen_that_is_not_brown_was_read_as_hardly_a_positive(chromogen: tuple[float, float, float]) -> None:
    field = stained_field(positive_fraction=0.3, style=FieldStyle(dab=chromogen))
    stain = estimate_stain([field.rgb], SETTINGS, field.mpp)
    assert vectors.SECOND_COLOUR in stain.flags
    assert not stain.colours_are_explained


def test_one_counterstain_alone_is_no_second_colour() -> None:
    assert estimate_stain([stained_field(positive_fraction=0).rgb], SETTINGS, 0.3).colours_are_explained


def test_a_red_that_leaves_red_light_alone_is_not_dab() -> None:
    pixels = np.random.default_rng(0).uniform(0.2, 0.7, (4000, 1)).astype(np.float32)
    sirius_red = pixels * np.array(vectors.unit((0.14, 0.62, 0.78)), np.float32)
    assert vectors.OTHER_STAIN in vectors.estimate_vectors(sirius_red).flags


def test_black_grains_on_a_negative_slide_were_positive() -> None:
    field = stained_field(positive_fraction=0)
    rng = np.random.default_rng(1)
    black = np.zeros(field.rgb.shape[:2], np.float32)
    for x, y in rng.uniform(20, 400, (25, 2)).astype(int).tolist():
        cv2.circle(black, (x, y), int(rng.integers(6, 12)), 1.2, -1)
    black = cv2.GaussianBlur(black, (0, 0), 1.0)
    rgb = np.clip((field.rgb + 1.0) * 10 ** -black[..., None] - 1, 0, 255).round().astype(np.uint8)
    stain = estimate_stain([rgb], SETTINGS, field.mpp)
    cells = count_cells(rgb, field.mpp, Marker.KI67, stain, SETTINGS)
    assert (cells.counts(tumour_only=False).ratio or 0) < 0.01
    assert np.count_nonzero(cells.cell_class == CellClass.OTHER) >= 10


def test_tissue_without_glass_says_so() -> None:
    rng = np.random.default_rng(0)
    field = stained_field(style=FieldStyle(glass=False, noise_grey=6))
    texture = np.clip(field.rgb - rng.integers(0, 40, field.rgb.shape[:2])[..., None], 0, 255).astype(np.uint8)
    assert background.NO_GLASS in estimate_stain([texture], SETTINGS, field.mpp).flags


def test_padding_around_the_scan_is_not_its_glass() -> None:
    field = stained_field(style=FieldStyle(background=(225.0, 222.0, 220.0)))
    padded = np.full((field.rgb.shape[0], field.rgb.shape[1] * 2, 3), 255, np.uint8)
    padded[:, : field.rgb.shape[1]] = field.rgb
    colour, flags = background.estimate_background([padded])
    assert np.allclose(colour, (225, 222, 220), atol=3)
    assert flags == ()


def test_a_dark_picture_is_flagged() -> None:
    _, flags = background.estimate_background([np.full((80, 80, 3), 20, np.uint8)])
    assert background.DARK in flags


def test_a_blank_picture_gives_the_published_vectors() -> None:
    blank = np.full((300, 300, 3), 240, np.uint8)
    stain = estimate_stain([blank], SETTINGS, 0.3)
    assert {vectors.HEMATOXYLIN_PUBLISHED, vectors.DAB_PUBLISHED, FEW_NUCLEI, NO_NEGATIVES} <= set(stain.flags)


def test_a_stain_survives_json() -> None:
    field = stained_field()
    stain = estimate_stain([field.rgb], SETTINGS, field.mpp)
    assert SlideStain.from_dict(json.loads(json.dumps(stain.to_dict()))) == stain


@pytest.mark.parametrize("change", [{"dab": [1, 2]}, {"typical_od": -1}, {"background": None}])
def test_a_broken_stain_is_refused(change: dict[str, object]) -> None:
    value = SlideStain(background=(240.0, 240.0, 240.0)).to_dict() | change
    with pytest.raises(InputError, match="Expected a stain"):
        SlideStain.from_dict(value)


def test_estimating_from_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one image"):
        estimate_stain([], SETTINGS)


@pytest.mark.parametrize("positive_fraction", [0.02, 0.3, 1.0])
@pytest.mark.parametrize(
    "style",
    [
        FieldStyle(hematoxylin=(0.92, 0.38, 0.08), negative_od=0.09),
        FieldStyle(hematoxylin=(0.52, 0.78, 0.35)),
        FieldStyle(hematoxylin=(0.62, 0.60, 0.50)),
        FieldStyle(dab=(0.40, 0.62, 0.67)),
        FieldStyle(background=(255.0, 225.0, 190.0)),
        FieldStyle(background=(170.0, 165.0, 175.0)),
        FieldStyle(cytoplasm_od=0.15),
    ],
    ids=["sky blue and pale", "purple", "grey", "reddish DAB", "yellow light", "dim light", "stained cytoplasm"],
)
def test_counterstains_lights_and_shares_of_positives_do_not_matter(
    style: FieldStyle, positive_fraction: float
) -> None:
    field = stained_field(150.0, positive_fraction=positive_fraction, style=style)
    stain = estimate_stain([field.rgb], SETTINGS, field.mpp)
    cells = count_cells(field.rgb, field.mpp, Marker.KI67, stain, SETTINGS)
    assert f1_score(cells.xy, field.xy, 3 / field.mpp) > 0.97
    assert cells.counts(tumour_only=False).ratio == pytest.approx(float(field.positive.mean()), abs=0.02)
    # a stain that cannot be estimated is told
    assert (vectors.HEMATOXYLIN_PUBLISHED in stain.flags) == (stain.hematoxylin == vectors.unit(PUBLISHED_HEMATOXYLIN))


@pytest.mark.parametrize("positive_fraction", [0.0, 0.05, 0.3, 0.9])
@pytest.mark.parametrize("brown_od", [0.2, 0.4])
def test_brown_tissue_was_read_as_all_positive(brown_od: float, positive_fraction: float) -> None:
    field = stained_field(positive_fraction=positive_fraction, style=FieldStyle(brown_od=brown_od))
    stain = estimate_stain([field.rgb], SETTINGS, field.mpp)
    cells = count_cells(field.rgb, field.mpp, Marker.KI67, stain, SETTINGS)
    assert f1_score(cells.xy, field.xy, 3 / field.mpp) > 0.97
    assert cells.counts(tumour_only=False).ratio == pytest.approx(float(field.positive.mean()), abs=0.02)
    assert BROWN in stain.flags


@pytest.mark.parametrize(("negative_od", "pale"), [(0.06, False), (0.04, True)])
def test_a_very_pale_counterstain_was_missed_and_all_was_positive(negative_od: float, pale: bool) -> None:
    style = FieldStyle(hematoxylin=(0.92, 0.38, 0.08), negative_od=negative_od, cytoplasm_od=0.005)
    field = stained_field(positive_fraction=0.3, style=style)
    stain = estimate_stain([field.rgb], SETTINGS, field.mpp)
    cells = count_cells(field.rgb, field.mpp, Marker.KI67, stain, SETTINGS)
    assert f1_score(cells.xy, field.xy, 3 / field.mpp) > 0.97
    assert cells.counts(tumour_only=False).ratio == pytest.approx(float(field.positive.mean()), abs=0.02)
    assert vectors.HEMATOXYLIN_FAINT in stain.flags
    assert (PALE in stain.flags) == pale


@pytest.mark.parametrize("counterstain", [(0.57, 0.60, 0.56), (0.52, 0.60, 0.61)])
def test_grey_or_brownish_nuclei_without_any_blue_are_not_called_positive(
    counterstain: tuple[float, float, float],
) -> None:
    field = stained_field(positive_fraction=0, style=FieldStyle(hematoxylin=counterstain))
    stain = estimate_stain([field.rgb], SETTINGS, field.mpp)
    assert vectors.GREY in stain.flags
    assert not stain.is_hematoxylin_dab


@pytest.mark.parametrize("haze_od", [0.03, 0.3])
def test_nuclei_are_looked_for_beyond_the_haze_of_the_tissue(haze_od: float) -> None:
    field = stained_field(positive_fraction=0.2, style=FieldStyle(cytoplasm_od=haze_od, negative_od=0.35 + haze_od))
    stain = estimate_stain([field.rgb], SETTINGS, field.mpp)
    summed = haze_od * float(np.sum(vectors.unit(HEMATOXYLIN)))
    assert 0.3 * summed < stain.haze_od < 0.6 * summed  # half of what the tissue between the nuclei has
    cells = count_cells(field.rgb, field.mpp, Marker.KI67, stain, SETTINGS)
    assert f1_score(cells.xy, field.xy, 3 / field.mpp) > 0.97


def test_a_pixel_size_twice_too_large_is_told_by_nuclei_that_fill_the_largest_outline() -> None:
    field = stained_field()
    right, wrong = (estimate_stain([field.rgb], SETTINGS, field.mpp * factor).flags for factor in (1, 2))
    assert TOO_LARGE not in right
    assert TOO_LARGE in wrong


def test_brown_that_lies_outside_nuclei_is_told() -> None:
    field = stained_field(positive_fraction=0.2, style=FieldStyle(spacing_um=20.0))
    brown = np.zeros(field.rgb.shape[:2], np.float32)
    for x, y in ((80, 90), (300, 120), (120, 330), (330, 380), (200, 480)):
        cv2.circle(brown, (x, y), 45, 0.5, -1)  # brown cytoplasm, wider than any nucleus
    brown = cv2.GaussianBlur(brown, (0, 0), 8)
    density = brown[..., None] * np.array(vectors.unit(DAB), np.float32)
    stained = np.clip((field.rgb + 1.0) * 10**-density - 1, 0, 255).round().astype(np.uint8)
    with_pigment, without = (estimate_stain([rgb], SETTINGS, field.mpp).flags for rgb in (stained, field.rgb))
    assert BROWN_OUTSIDE in with_pigment
    assert BROWN_OUTSIDE not in without
