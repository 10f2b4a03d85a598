"""The drawn picture: nuclei of the H&E alone, as many positive as expected, in every tiling the same, read back."""

from __future__ import annotations

import dataclasses
import functools

import cv2
import numpy as np
import pytest

from virtual_stain.config import CountingSettings
from virtual_stain.counting.cells import Cells
from virtual_stain.counting.slide_stain import SlideStain
from virtual_stain.markers import Marker
from virtual_stain.virtual.draw import REFERENCE, expected_picture, render, slide_seed, thresholds
from virtual_stain.virtual.he_nuclei import estimate_he_stain, find_he_nuclei
from virtual_stain.virtual.maps import Core, Maps, Window, window_around
from virtual_stain.virtual.reading import (
    LOST,
    UNSTABLE,
    VirtualReading,
    disagree,
    grid_px,
    margin_px,
    read_window,
    reading,
)

MPP, HALO_PX, SETTINGS = 0.6, 48, CountingSettings()
SIZE = 640
PINK = (232, 190, 214)


@functools.cache
def he_slide() -> np.ndarray:
    """uint8[SIZE, SIZE, 3]: nuclei of about 9 µm on pink ground; the right quarter is glass, one part has none."""
    rng = np.random.default_rng(0)
    image = np.full((SIZE, SIZE, 3), PINK, np.uint8)
    for y in range(16, SIZE, 24):
        for x in range(16, SIZE, 24):
            if 200 <= x < 300 and 200 <= y < 300:
                continue
            middle = (int(x + rng.integers(-3, 4)), int(y + rng.integers(-3, 4)))
            axes = (int(rng.integers(6, 9)), int(rng.integers(6, 8)))
            cv2.ellipse(image, middle, axes, float(rng.uniform(0, 180)), 0, 360, (112, 78, 148), -1, cv2.LINE_AA)
    image[:, 3 * SIZE // 4 :] = 250
    noise = rng.normal(0, 3, image.shape)
    return np.clip(cv2.GaussianBlur(image, (0, 0), 0.8) + noise, 0, 255).astype(np.uint8)


@functools.cache
def he_stain() -> SlideStain:
    return estimate_he_stain([he_slide()[:, : 3 * SIZE // 4]], MPP, (250.0, 250.0, 250.0), SETTINGS)


def maps_of(share: float, shape: tuple[int, int]) -> Maps:
    places = np.ones((shape[0] // 4, shape[1] // 4), np.float32)
    return Maps(share * places, places / 36, share * places, places)


def read(
    x: int, y: int, side: int, share: float, *, slide: np.ndarray | None = None, texture: float = 0.0
) -> tuple[VirtualReading, np.ndarray]:
    """The reading and the picture of a core of the slide; white beyond it."""
    image = he_slide() if slide is None else slide
    margin, step = margin_px(MPP, SETTINGS, HALO_PX), grid_px(MPP, SETTINGS)
    window = window_around(x, y, side, side, margin_px=margin, grid_px=step)
    beyond = 512
    padded = np.pad(image, ((beyond, beyond), (beyond, beyond), (0, 0)), constant_values=255)
    rgb = padded[beyond + window.y :, beyond + window.x :][: window.height, : window.width]
    maps = maps_of(share, rgb.shape[:2])
    if texture:  # of zero mean in every 2 × 2 places, as an adversarial term on the high-pass would make it
        sign = np.indices(maps.dab.shape).sum(axis=0) % 2 * 2 - 1
        more = np.float32(texture) * sign.astype(np.float32)
        maps = dataclasses.replace(maps, dab=maps.dab * (1 + more), hematoxylin=maps.hematoxylin * (1 - more))
    found, drawn = read_window(
        rgb, maps, window, Marker.KI67,
        mpp=MPP, stain=he_stain(), seed=slide_seed("a" * 64), settings=SETTINGS,
    )  # fmt: skip
    return found, window.core.of(drawn.rgb)


def test_the_nuclei_of_the_he_are_found() -> None:
    nuclei = find_he_nuclei(he_slide()[:, : 3 * SIZE // 4], MPP, he_stain(), SETTINGS)
    there = 26 * 20 - 16  # the grid, less the empty part
    assert 0.9 * there < len(nuclei.measured) < 1.1 * there
    assert nuclei.tumour.mean() > 0.9


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_what_is_drawn_is_read_back(share: float) -> None:
    found, picture = read(0, 0, 448, share)
    assert found.counted == pytest.approx(share, abs=0.04)
    assert found.expected == pytest.approx(share, abs=1e-6)
    assert found.counted_cells > 0.9 * (18 * 18 - 16)
    assert picture.shape == (448, 448, 3)


def test_where_the_he_shows_no_nucleus_none_is_drawn_whatever_the_maps_say() -> None:
    _, picture = read(0, 0, 640, 1.0)
    for empty in (picture[215:285, 215:285], picture[20:-20, 3 * SIZE // 4 + 20 : -20]):
        density = -np.log10((empty.astype(np.float64) + 1) / (np.array(REFERENCE.background) + 1))
        assert density.sum(axis=2).max() < REFERENCE.typical_od * SETTINGS.level_contrast, "nothing that looks like one"
        assert (empty[..., 2].astype(int) >= empty[..., 0].astype(int)).all(), "nothing is brown"
    bare = np.full((256, 256, 3), PINK, np.uint8)
    found, _ = read(0, 0, 256, 1.0, slide=bare)
    assert (found.counted, found.counted_cells) == (None, 0)
    assert found.flags == (LOST,)


def test_the_picture_is_the_same_bytes_however_the_slide_is_cut() -> None:
    whole_reading, whole = read(128, 128, 256, 0.4)
    cells = 0
    for y in (128, 256):
        for x in (128, 256):
            part, picture = read(x, y, 128, 0.4)
            np.testing.assert_array_equal(picture, whole[y - 128 : y, x - 128 : x])
            cells += part.counted_cells
    assert cells == whole_reading.counted_cells
    assert len(np.unique(whole.reshape(-1, 3), axis=0)) > 50


def test_no_reading_depends_on_the_texture_of_the_densities() -> None:
    """Why the generator has no adversarial term: what it could improve is neither read nor shown in a virtual slide."""
    plain, picture = read(128, 128, 128, 0.4)
    textured, same_picture = read(128, 128, 128, 0.4, texture=0.9)
    np.testing.assert_array_equal(picture, same_picture)
    assert (textured.counted, textured.expected, textured.flags) == (plain.counted, plain.expected, plain.flags)
    assert textured.density == pytest.approx(plain.density, abs=1e-6)


def test_thresholds_belong_to_the_place_and_are_spread_evenly() -> None:
    rng = np.random.default_rng(3)
    xy = rng.uniform(0, 512, (150, 2))
    here, there = (Window(x, y, 512, 512, Core(0, 0, 512, 512)) for x, y in ((1024, 512), (960, 448)))
    np.testing.assert_allclose(thresholds(xy, here, MPP, 0.3), thresholds(xy + 64, there, MPP, 0.3), atol=1e-9)
    assert (thresholds(xy, here, MPP, 0.3) != thresholds(xy, here, MPP, 0.4)).all()
    assert slide_seed("a" * 64) != slide_seed("b" * 64)
    errors = [
        (thresholds(rng.uniform(0, 512, (150, 2)), here, MPP, rng.uniform()) < share).mean() - share
        for share in (0.1, 0.3, 0.5) for _ in range(200)
    ]  # fmt: skip
    assert abs(np.mean(errors)) < 0.005
    assert np.std(errors) < 0.9 * np.sqrt(0.21 / 150), "less noise than a coin for every nucleus"


def test_readings_and_their_flags() -> None:
    cells = Cells(np.zeros((10, 2)), np.array([1] * 4 + [0] * 6, np.uint8), np.ones(10, bool), *np.zeros((2, 10)))
    places = np.full((10, 10), 0.1, np.float32)
    found = reading(cells, Maps(4 * places, places, places, 3 * places))
    assert (found.counted, found.counted_cells) == (0.4, 10)
    assert found.expected == pytest.approx(0.4)
    assert found.expected_cells == pytest.approx(10)
    assert found.density == pytest.approx(0.25)
    assert found.flags == ()
    assert reading(cells, Maps(9 * places, places, places, places)).flags == (UNSTABLE,)
    assert reading(cells, Maps(4 * places, 2 * places, places, places)).flags == (LOST,)
    nothing = reading(cells.select(np.zeros(10, bool)), Maps(*[0 * places] * 4))
    assert (nothing.counted, nothing.expected, nothing.density) == (None, None, None)


def test_few_nuclei_differ_by_chance_and_are_not_called_unstable() -> None:
    """On tiles of some dozens of nuclei the draw of whole nuclei alone made a difference of more than 5 points."""
    rng, here = np.random.default_rng(5), Window(0, 0, 512, 512, Core(0, 0, 512, 512))
    drawn = [
        (float((thresholds(rng.uniform(0, 512, (60, 2)), here, MPP, rng.uniform()) < share).mean()), share)
        for share in (0.1, 0.3, 0.5) for _ in range(200)
    ]  # fmt: skip
    assert np.mean([abs(counted - share) > 0.05 for counted, share in drawn]) > 0.15
    assert np.mean([disagree(counted, share, 60) for counted, share in drawn]) < 0.05
    assert disagree(0.36, 0.30, 400)
    assert not disagree(0.345, 0.30, 100_000)
    assert disagree(0.2, 0.5, 60)
    assert disagree(0.06, 0.0, 20)


def test_the_expected_picture_has_the_densities_that_were_predicted() -> None:
    picture = expected_picture(maps_of(0.5, (64, 64))).astype(np.float64)
    np.testing.assert_allclose(picture.std(axis=(0, 1)), 0, atol=1e-9)
    plain = render(np.zeros((2, 2), np.float32), np.zeros((2, 2), np.float32))
    assert (plain == np.array(REFERENCE.background)).all()
    assert (picture[0, 0] < np.array(REFERENCE.background) - 20).all()
