"""How a slide looks, and when it looks like nothing that a model has learned from."""

import dataclasses

import cv2
import numpy as np
import pytest

from tests.fixtures.records import tiny_tile
from virtual_stain.appearance import (
    Appearance,
    Deviation,
    outside_training,
    slide_appearance,
    tile_appearance,
    training_range,
)


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


def test_a_sharpening_scanner_and_a_thin_section_were_not_noticed():
    """The focus of a pale, sharpened slide may be that of a dark, plain one; its sharpness is nobody's."""
    looks = {lab: [_phantom_look(seed, lab) for seed in range(4)] for lab in ("", "clusters")}
    payload = training_range(looks[""][:3])
    assert "sharpness" not in {d.quantity for d in outside_training(payload, looks[""][3])}
    noticed = [{d.quantity for d in outside_training(payload, found)} for found in looks["clusters"]]
    assert all("sharpness" in quantities for quantities in noticed)
    assert not all("focus" in quantities for quantities in noticed)


def _phantom_look(seed, lab):
    from virtual_stain.config.phantom import PhantomSettings
    from virtual_stain.phantom.pair import make_pair

    settings = PhantomSettings(lab=lab, size_mm=0.4, he_mpp=0.6, ihc_mpp=0.6, seed=seed)
    he = make_pair("p001", 0, settings).he
    middle = he.size.width // 2 - 128, he.size.height // 2 - 128
    return slide_appearance([tile_appearance(he.block(*middle, 256, 256))] * 4)


def test_a_bundle_older_than_the_sharpness_is_compared_in_what_it_knows(payload):
    older = {name: limits for name, limits in payload.items() if name != "sharpness"}
    found = outside_training(older, slide(99, lambda t: cv2.GaussianBlur(t, (0, 0), 3)))
    assert "focus" in {d.quantity for d in found}
    assert "sharpness" not in {d.quantity for d in found}


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
    assert str(deviation) == "number of usable tiles 2 (training slides: 3 or more)"


def test_a_look_is_what_its_definition_says():
    """Pixel by pixel, by least squares and plain variances; the function takes shorter ways."""
    tile = tiny_tile(np.random.default_rng(3), 128, np.random.default_rng(4).uniform(4, 124, (60, 2)), 0.3)
    found = tile_appearance(tile)
    assert found is not None
    pixels = tile[::4, ::4].reshape(-1, 3).astype(np.float64)
    od = -np.log10((pixels + 1) / 256)
    inside = od[od.mean(axis=1) > 0.08]
    stains = np.array([[0.650, 0.704, 0.286], [0.072, 0.990, 0.105]])
    amounts = np.linalg.lstsq(stains.T, inside.T, rcond=None)[0].T
    grey = cv2.cvtColor(tile, cv2.COLOR_RGB2GRAY)
    edges = cv2.Laplacian(grey, cv2.CV_64F)
    assert found.hematoxylin_od == pytest.approx(amounts[:, 0].mean(), abs=1e-9)
    assert found.eosin_od == pytest.approx(amounts[:, 1].mean(), abs=1e-9)
    assert found.other_od == pytest.approx(np.abs(inside - amounts @ stains).mean(), abs=1e-9)
    assert found.focus == pytest.approx(np.log10((edges.var() + 1e-3) / (grey.var() + 1e-3)), abs=1e-9)
    quarter = grey.reshape(32, 4, 32, 4).mean(axis=(1, 3)).round()
    coarse = cv2.Laplacian(quarter, cv2.CV_64F)
    assert found.sharpness == pytest.approx(np.log10((edges.var() + 1e-3) / (coarse.var() + 1e-3)), abs=0.01)
    assert found.density == pytest.approx(len(inside) / len(od), abs=1e-12)


@pytest.mark.parametrize("quantity", [f.name for f in dataclasses.fields(Appearance)])
def test_every_quantity_outside_its_range_is_told_in_words(quantity):
    """A new one had none, and a slide that lay outside in it ended in a KeyError."""
    told = str(Deviation(quantity, 1.0, 2.0, 3.0))
    assert quantity not in told.split()[0] or quantity == "sharpness"
    assert "(training slides: 2 to 3)" in told
    assert Deviation(quantity, 1.0, 2.0, 3.0).code.endswith("_outside_training")
