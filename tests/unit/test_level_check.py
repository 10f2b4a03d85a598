"""Levels of the right size that show another picture than level 0."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from tests.fixtures.slides import memory_slide
from virtual_stain.errors import SlideError


def picture():
    """uint8[640, 800, 3]: blobs of all sizes."""
    noise = np.random.default_rng(0).normal(0, 1, (640, 800))
    field = sum(cv2.GaussianBlur(noise, (0, 0), s) * s for s in (2, 5, 12))
    grey = np.clip(200 + 60 * field / np.abs(field).max() * 2, 0, 255)
    return np.stack([grey, grey * 0.8, grey], axis=-1).astype(np.uint8)


def smaller(rgb, factor):
    return cv2.resize(rgb, (rgb.shape[1] // factor, rgb.shape[0] // factor), interpolation=cv2.INTER_AREA)


WRONG = {
    "black": lambda level: level * 0,
    "white": lambda level: level * 0 + 255,
    "noise": lambda level: np.random.default_rng(1).integers(0, 255, level.shape, np.uint8),
    "negative": lambda level: 255 - level,
    "shifted": lambda level: np.roll(level, (40, 60), (0, 1)),
    "mirrored": lambda level: np.ascontiguousarray(level[:, ::-1]),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_a_level_of_another_picture_was_used_in_silence(wrong):
    rgb = picture()
    slide = memory_slide([rgb, wrong(smaller(rgb, 2)), smaller(rgb, 4)], 1.0)
    with pytest.raises(SlideError, match=r"level 1 of 400 × 320 px, which shows another picture than level 0"):
        slide.overview(mpp=8.0)


@pytest.mark.parametrize("quality", [None, 60])
def test_levels_of_one_picture_agree(quality):
    rgb = picture()
    levels = [rgb, smaller(rgb, 2), smaller(rgb, 8)]
    if quality is not None:
        coded = [cv2.imencode(".jpg", level, [cv2.IMWRITE_JPEG_QUALITY, quality])[1] for level in levels]
        levels = [cv2.imdecode(data, cv2.IMREAD_COLOR) for data in coded]
    overview = memory_slide(levels, 1.0).overview(mpp=8.0)
    assert overview.image.shape == (80, 100, 3)
    assert np.corrcoef(overview.image.ravel(), smaller(rgb, 8).ravel())[0, 1] > 0.9


def test_bare_glass_has_nothing_to_compare():
    glass = np.full((640, 800, 3), 240, np.uint8)
    overview = memory_slide([glass, smaller(glass, 2) - 3], 1.0).overview(mpp=8.0)
    assert (overview.image >= 237).all()
