"""How a slide looks, and when it looks like nothing that a model has learned from."""

import cv2
import numpy as np
import pytest

from tests.fixtures.records import tiny_tile
from virtual_stain.appearance import outside_training, slide_appearance, tile_appearance, training_range


def tiles(seed, change=lambda tile: tile, n=6):
    rng = np.random.default_rng(seed)
    return [change(tiny_tile(rng, 128, rng.uniform(4, 124, (60, 2)), 0.3)) for _ in range(n)]


def slide(seed, change=lambda tile: tile, n=6):
    return slide_appearance([tile_appearance(t) for t in tiles(seed, change, n)])


@pytest.fixture(scope="module")
def payload():
    return training_range([slide(s) for s in range(5)])


def codes(payload, found):
    return {d.code for d in outside_training(payload, found)}


def test_a_slide_like_the_others_is_inside(payload):
    assert outside_training(payload, slide(99)) == ()


def test_blur_is_focus(payload):
    assert "focus_outside_training" in codes(payload, slide(99, lambda t: cv2.GaussianBlur(t, (0, 0), 3)))


def test_brown_and_pale_and_dark_are_stain(payload):
    def brown(tile):
        return (tile * np.array([0.75, 0.55, 0.3])).astype(np.uint8)

    def dark(tile):
        return (255 * (tile / 255) ** 2).astype(np.uint8)

    assert "stain_outside_training" in codes(payload, slide(99, brown))
    assert "stain_outside_training" in codes(payload, slide(99, dark))


def test_a_jpeg_of_the_tile_is_the_same_look(payload):
    def jpeg(tile):
        return cv2.imdecode(cv2.imencode(".jpg", tile, [cv2.IMWRITE_JPEG_QUALITY, 95])[1], cv2.IMREAD_COLOR)

    assert outside_training(payload, slide(99, jpeg)) == ()


def test_holes_and_crumbs_are_tissue(payload):
    def half(tile):
        tile = tile.copy()
        tile[:, 40:] = 248
        return tile

    assert "tissue_outside_training" in codes(payload, slide(99, half))
    assert codes(payload, slide(99, n=2)) == {"tissue_outside_training"}


def test_glass_has_no_look_and_no_range_says_nothing(payload):
    glass = np.full((128, 128, 3), 247, np.uint8)
    assert tile_appearance(glass) is None
    assert slide_appearance([None]) is None
    assert outside_training(payload, None) == ()
    assert outside_training(None, slide(1)) == ()
    assert training_range([]) is None
    deviation = outside_training(payload, slide(99, n=2))[0]
    assert str(deviation) == "n_tiles 2 (training: 3)"
