"""Windows show what lies where they say, to a twentieth of a pixel, whatever scale, turn, mirror or level."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fixtures.slides import centres, memory_slide, position_error_px0, wave_levels, write_tiled_tiff
from virtual_stain.geometry import Affine2D, Box, Points, Size
from virtual_stain.slides import window
from virtual_stain.slides.slide import SlideRef, open_slide
from virtual_stain.slides.window import best_level, read_warped_window, read_window

SIZE = Size(1800, 1504)  # whole pixels on every level
PERIOD = 160.0  # of the test picture, px0
FINE_PERIOD = 40.0  # the same for windows that see only a small part of it
PYRAMID = (1, 2, 4, 8)
TOLERANCE_PX = 0.05  # of the result
OUT = Size(160, 128)


@pytest.fixture(scope="module")
def pyramid():
    return memory_slide(wave_levels(SIZE, PERIOD, PYRAMID))


@pytest.fixture(scope="module")
def fine_pyramid():
    return memory_slide(wave_levels(SIZE, FINE_PERIOD, PYRAMID))


@pytest.fixture(scope="module")
def flat():
    return memory_slide(wave_levels(SIZE, PERIOD))


scales = st.floats(0.3, 9.0)
offsets = st.floats(0.0, 1.0, exclude_max=True)


def _box(scale_x: float, scale_y: float, u: float, v: float) -> Box:
    width, height = OUT.width * scale_x, OUT.height * scale_y
    margin = 3 * max(scale_x, 1.0)  # the filters mix in the white beyond the scan there
    x, y = (
        margin + t * (full - 2 * margin - side) for t, full, side in ((u, SIZE.width, width), (v, SIZE.height, height))
    )
    return Box(x, y, width, height)


@given(scale_x=scales, stretch=st.floats(0.8, 1.25), u=offsets, v=offsets)
@settings(max_examples=60, deadline=None)
def test_a_window_lies_where_its_box_says(pyramid, fine_pyramid, scale_x, stretch, u, v):
    box = _box(scale_x, scale_x * stretch, u, v)
    slide, period = (pyramid, PERIOD) if scale_x > 1.6 else (fine_pyramid, FINE_PERIOD)
    image = read_window(slide, box, OUT)
    expected = centres(OUT) * (box.width / OUT.width, box.height / OUT.height) + (box.x, box.y)
    assert position_error_px0(image, expected, period) <= TOLERANCE_PX * scale_x


@given(scale=st.floats(1.0, 9.0), u=offsets, v=offsets)
@settings(max_examples=30, deadline=None)
def test_a_window_is_the_same_from_any_level(pyramid, flat, scale, u, v):
    box = _box(scale, scale, u, v)
    difference = read_window(pyramid, box, OUT).astype(int) - read_window(flat, box, OUT)
    assert np.abs(difference).mean() < 1.5
    assert np.abs(difference).max() < 8
    assert abs(difference.mean()) < 0.2


@st.composite
def transforms(draw):
    """px0 from the output image: any rotation, mirror, scale 0.3–6, stretch, sub-pixel shift, about the middle."""
    angle = draw(st.floats(-math.pi, math.pi))
    scale, stretch = draw(st.floats(0.3, 6.0)), draw(st.floats(0.85, 1.18))
    mirror = draw(st.sampled_from([1.0, -1.0]))
    c, s = math.cos(angle), math.sin(angle)
    linear = np.array([[c, -s], [s, c]]) @ np.diag([scale * mirror, scale * stretch])
    reach = np.abs(linear) @ (OUT.width / 2, OUT.height / 2)
    room = np.maximum(np.array([SIZE.width, SIZE.height]) / 2 - reach, 0)
    middle = np.array([SIZE.width, SIZE.height]) / 2 + room * (draw(st.floats(-1, 1)), draw(st.floats(-1, 1)))
    matrix = np.eye(3)
    matrix[:2, :2] = linear
    matrix[:2, 2] = middle - linear @ (OUT.width / 2, OUT.height / 2)
    return Affine2D("px0", "out", matrix)


def _inside(expected: Points) -> bool:
    low, high = expected.reshape(-1, 2).min(axis=0), expected.reshape(-1, 2).max(axis=0)
    return bool((low > 12).all() and high[0] < SIZE.width - 12 and high[1] < SIZE.height - 12)


@given(transform=transforms())
@settings(max_examples=60, deadline=None)
def test_a_warped_window_lies_where_its_transform_says(pyramid, fine_pyramid, transform):
    expected = transform.apply(centres(OUT))
    slide, period = (pyramid, PERIOD) if transform.scales[1] > 1.6 else (fine_pyramid, FINE_PERIOD)
    image, valid = read_warped_window(slide, transform, OUT)
    if _inside(expected):
        assert valid.all()
        assert position_error_px0(image, expected, period) <= TOLERANCE_PX * transform.scales[1]


@given(transform=transforms())
@settings(max_examples=25, deadline=None)
def test_a_displaced_window_with_the_same_map_is_the_same(pyramid, transform):
    image, valid = read_warped_window(pyramid, transform, OUT)
    displaced, valid_too = read_warped_window(pyramid, transform, OUT, transform.apply)
    assert np.array_equal(valid, valid_too)
    # both quantise to 1/32 of a source px, in different places; the waves rise by 4 levels a px at most
    assert np.abs(image[valid].astype(int) - displaced[valid]).max(initial=0) <= 3


@given(transform=transforms(), amplitude=st.floats(0, 12), phase=st.floats(0, 6.3))
@settings(max_examples=30, deadline=None)
def test_a_curved_map_is_followed_pixel_by_pixel(pyramid, fine_pyramid, transform, amplitude, phase):
    def curved(points: Points) -> Points:
        mapped = transform.apply(points)
        return mapped + amplitude * np.sin(mapped[:, ::-1] / 150 + phase)

    expected = curved(centres(OUT).reshape(-1, 2)).reshape(OUT.height, OUT.width, 2)
    slide, period = (pyramid, PERIOD) if transform.scales[1] > 1.6 else (fine_pyramid, FINE_PERIOD)
    image, _ = read_warped_window(slide, transform, OUT, curved)
    if _inside(expected):
        assert position_error_px0(image, expected, period) <= TOLERANCE_PX * transform.scales[1]


@given(transform=transforms())
@settings(max_examples=25, deadline=None)
def test_valid_is_where_the_centre_lies_in_the_bounds(transform):
    slide = memory_slide(np.full((300, 400, 3), 90, np.uint8), bounds=Box(40, 30, 300, 200))
    shift = Affine2D.scale_and_shift("px0", "px0", (1, 1), (-700.0, -600.0))
    moved = shift @ transform
    _, valid = read_warped_window(slide, moved, OUT)
    points = moved.apply(centres(OUT))
    inside = (points[..., 0] >= 40) & (points[..., 0] < 340) & (points[..., 1] >= 30) & (points[..., 1] < 230)
    assert np.array_equal(valid, inside)


def test_whole_pixels_are_copied_exactly(pyramid):
    image = read_window(pyramid, Box(100, 50, OUT.width, OUT.height), OUT)
    assert np.array_equal(image, wave_levels(SIZE, PERIOD)[0][50 : 50 + OUT.height, 100 : 100 + OUT.width])
    shift = Affine2D.scale_and_shift("px0", "out", (1, 1), (100, 50))
    warped, _ = read_warped_window(pyramid, shift, OUT)
    assert np.array_equal(warped, image)


@pytest.mark.parametrize("turns", [1, 2, 3])
@pytest.mark.parametrize("mirror", [False, True])
def test_quarter_turns_and_mirrors_move_whole_pixels(turns, mirror):
    rng = np.random.default_rng(turns)
    rgb = rng.integers(0, 256, (64, 64, 3), np.uint8)
    slide = memory_slide(rgb)
    angle = turns * math.pi / 2
    linear = np.rint([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    matrix = np.eye(3)
    matrix[:2, :2] = linear @ np.diag([-1.0 if mirror else 1.0, 1.0])
    matrix[:2, 2] = (32, 32) - matrix[:2, :2] @ (32, 32)
    image, valid = read_warped_window(slide, Affine2D("px0", "out", matrix), Size(64, 64))
    expected = np.rot90(rgb, turns)
    assert np.array_equal(image, expected[:, ::-1] if mirror else expected)
    assert valid.all()


def test_outside_the_scan_is_white(pyramid):
    box = Box(-400, -300, 200, 150)
    assert (read_window(pyramid, box, OUT) == 255).all()
    away = Affine2D.scale_and_shift("px0", "out", (1.5, 1.5), (-900, -900))
    image, valid = read_warped_window(pyramid, away, OUT)
    assert (image == 255).all()
    assert not valid.any()
    edge = read_window(pyramid, Box(SIZE.width - 60, 100, 120, 96), Size(120, 96))
    assert (edge[:, 62:] == 255).all()
    assert (edge[:, :58] < 255).any()


def test_one_read_of_the_slide_for_one_window():
    slide = memory_slide(wave_levels(SIZE, PERIOD, PYRAMID))
    source = slide._source
    read_window(slide, Box(10.3, 20.7, 700, 560), OUT)
    assert [level for level, *_ in source.reads] == [2]
    source.reads.clear()
    read_warped_window(slide, Affine2D.scale_and_shift("px0", "out", (4.2, 4.2), (10, 10)), OUT)
    assert [level for level, *_ in source.reads] == [2]


def test_the_level_is_the_coarsest_that_is_fine_enough(pyramid):
    assert [best_level(pyramid, s) for s in (0.3, 1.0, 1.99, 2.0, 3.99, 3.999, 4.0, 7.0, 8.0, 500.0)] == [
        0, 0, 0, 1, 1, 2, 2, 2, 3, 3,
    ]  # fmt: skip


def test_a_window_too_large_for_memory_is_read_in_parts_without_seams(flat, monkeypatch):
    box = Box(3.3, 5.9, 1700.7, 1400.2)
    out = Size(113, 97)
    whole = read_window(flat, box, out)
    monkeypatch.setattr(window, "_MAX_REGION_PX", 100_000)
    flat._source.reads.clear()
    parts = read_window(flat, box, out)
    assert len(flat._source.reads) > 8
    assert max(size.area for *_, size in flat._source.reads) < 400_000
    assert np.abs(whole.astype(int) - parts).max() <= 1


def test_fine_detail_does_not_alias():
    """Single-pixel stripes, seen at 3 px a pixel, are grey and not moiré: upright and turned."""
    stripes = np.zeros((600, 600, 3), np.uint8)
    stripes[:, ::2] = 255
    slide = memory_slide(stripes)
    upright = read_window(slide, Box(100.4, 100.4, 303, 303), Size(101, 101))
    assert upright.std() < 12
    c, s = 3 * math.cos(0.1), 3 * math.sin(0.1)
    turned, _ = read_warped_window(
        slide, Affine2D("px0", "out", [[c, -s, 150], [s, c, 100], [0, 0, 1]]), Size(101, 101)
    )
    assert turned.std() < 12


def test_levels_that_are_no_whole_fraction_are_placed_exactly(tmp_path):
    """1501 px over 500: OpenSlide's downsample is 3.001 and it interpolates; the window must still be right."""
    size = Size(1501, 999)
    path = write_tiled_tiff(tmp_path / "odd.tif", wave_levels(size, PERIOD)[0], 0.25, levels=(1, 3))
    with open_slide(SlideRef(path)) as slide:
        assert slide.level_scales == ((1.0, 1.0), (3.0, 3.0))
        for x in (0.0, 100.4, 577.7, 1100.0):
            box = Box(x, 201.3, 360, 288)
            image = read_window(slide, box, Size(100, 80))
            expected = centres(Size(100, 80)) * 3.6 + (box.x, box.y)
            assert position_error_px0(image, expected, PERIOD) <= TOLERANCE_PX * 3.6


def test_a_map_that_is_not_finite_is_refused(pyramid):
    with pytest.raises(ValueError, match="finite"):
        read_warped_window(pyramid, Affine2D.identity("px0", "out"), OUT, lambda points: points * np.nan)


def test_a_map_that_has_nothing_to_do_with_the_transform_is_refused(pyramid):
    """A broken displacement field must not make us read the whole slide."""
    with pytest.raises(ValueError, match="near those of"):
        read_warped_window(pyramid, Affine2D.identity("px0", "out"), OUT, lambda points: points * 50)
