"""The generator: what a place sees, the same maps however a slide is cut, and no DAB without a nucleus in the H&E."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tests.fixtures.records import tiny_tile
from virtual_stain.config import ModelSettings
from virtual_stain.errors import ConfigError
from virtual_stain.markers import Marker, ValueDefinition
from virtual_stain.model.build import BuildOptions, Network
from virtual_stain.model.generator import GRID_PX, HALO_PX, STRIDE_PX, build_generator, require_generator
from virtual_stain.model.value import value_output

MPP = 0.6


def settings(**changes: object) -> ModelSettings:
    return ModelSettings(**({"path": "indirect", "weights": "none", "crop_px": 64} | changes))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def network() -> Network:
    """Random weights; statistics of normalization that are no identity."""
    options = BuildOptions(seed=3, value=value_output(ValueDefinition.POSITIVE_RATIO, 64, MPP))
    built = build_generator(settings(), (Marker.KI67,), options)
    rng = np.random.default_rng(0)
    for weight in built.model.weights:
        if weight.path.endswith(("moving_mean", "beta")):
            weight.assign(rng.normal(0, 0.1, weight.shape))
    for layer in built.head:  # the heads start next to nothing; here they must show what they see
        layer.kernel.assign(rng.normal(0, 2.0, layer.kernel.shape))
    return built


def slide(rng: np.random.Generator, size: int) -> np.ndarray:
    return tiny_tile(rng, size, rng.uniform(0, size, (size * size // 400, 2)), 0.3)


def test_no_place_sees_beyond_the_halo(network: Network) -> None:
    size, middle = 2 * HALO_PX + 64, (2 * HALO_PX + 64) // STRIDE_PX // 2
    pixels = tf.constant(slide(np.random.default_rng(1), size)[None], tf.float32)
    trunk = network.generator.get_layer("small_generator")
    with tf.GradientTape() as tape:
        tape.watch(pixels)
        answer = tf.reduce_sum(tf.square(trunk(pixels / 127.5 - 1.0, training=False)[0, middle, middle]))
    seen = np.argwhere(np.abs(tape.gradient(answer, pixels).numpy()[0]).sum(axis=-1) > 0)
    place = np.array([middle * STRIDE_PX, middle * STRIDE_PX])
    before, after = (place - seen.min(axis=0)).max(), (seen.max(axis=0) - (place + STRIDE_PX - 1)).max()
    assert 16 < max(before, after) <= HALO_PX, "the stated halo is what the layers need, and not twice as much"
    assert HALO_PX % GRID_PX == 0


@pytest.fixture(scope="module")
def whole(network: Network) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """A slide of 544 px with a halo around it, and its maps in one piece."""
    tile = slide(np.random.default_rng(2), 544)
    padded = np.pad(tile, ((HALO_PX, HALO_PX), (HALO_PX, HALO_PX), (0, 0)), "symmetric")
    return padded, {n: m.numpy()[0] for n, m in network.generator(padded[None]).items()}


@pytest.mark.parametrize(("tile_px", "corners"), [(128, (0, 128, 416)), (256, (0, 288)), (512, (32,))])
def test_maps_are_the_same_however_the_slide_is_cut(
    network: Network, whole: tuple[np.ndarray, dict[str, np.ndarray]], tile_px: int, corners: tuple[int, ...]
) -> None:
    padded, maps = whole
    halo, side = HALO_PX // STRIDE_PX, tile_px // STRIDE_PX
    for x, y in zip(corners, corners[::-1], strict=True):
        window = padded[y : y + tile_px + 2 * HALO_PX, x : x + tile_px + 2 * HALO_PX]
        for name, found in network.generator(window[None]).items():
            row, column = y // STRIDE_PX + halo, x // STRIDE_PX + halo
            np.testing.assert_allclose(
                found.numpy()[0, halo : halo + side, halo : halo + side],
                maps[name][row : row + side, column : column + side],
                atol=1e-4,
                err_msg=name,
            )
    assert maps["positive_share"][halo:-halo, halo:-halo].std() > 0.005, "a map that says nothing would be equal too"


def test_where_the_he_shows_no_nucleus_there_is_no_dab(network: Network) -> None:
    for colour in [(255, 255, 255), (228, 150, 190), (200, 60, 140)]:  # glass, pale and strong eosin
        flat = np.full((1, 160, 160, 3), colour, np.uint8)
        dab = network.generator(flat)["dab"].numpy()[0, 12:-12, 12:-12]
        assert dab.max() < 1e-3
    maps = network.generator(slide(np.random.default_rng(4), 160)[None])
    assert maps["dab"].numpy().max() > 0.05


def test_a_crops_reading_is_the_sum_over_its_places(network: Network) -> None:
    crop = slide(np.random.default_rng(5), 64)[None]
    maps = {n: m.numpy()[0].astype(np.float64) for n, m in network.generator(crop).items()}
    found = network.model(crop)
    cells = maps["tumour_cells"].sum()
    assert float(found["ki67_tumour_cells"][0]) == pytest.approx(cells, rel=1e-4)
    assert float(found["ki67"][0]) == pytest.approx(
        (maps["tumour_cells"] * maps["positive_share"]).sum() / cells, rel=1e-4
    )
    stain = network.logits(crop)["ki67_stain"].numpy()[0]
    np.testing.assert_allclose(stain[..., 0], maps["dab"], rtol=1e-4, atol=1e-6)
    assert 150_000 < network.model.count_params() < 250_000


@pytest.mark.parametrize(
    ("markers", "changes", "mpp", "sentence"),
    [
        ((Marker.HER2,), {}, 0.5, "share no membranes"),
        ((Marker.PDL1,), {}, 0.5, "share no membranes"),
        ((Marker.KI67, Marker.ER), {}, 0.5, "one nuclear marker"),
        ((Marker.KI67,), {"weights": "imagenet"}, 0.5, "no pre-trained weights"),
        ((Marker.KI67,), {"head": "svr"}, 0.5, "no support vectors"),
        ((Marker.KI67,), {"auxiliary_head": True}, 0.5, "no auxiliary head"),
        ((Marker.KI67,), {"crop_px": 100}, 0.5, "multiple of 16"),
        ((Marker.KI67,), {}, 1.0, "at most 0.75"),
    ],
)
def test_what_it_cannot_learn_is_refused(
    markers: tuple[Marker, ...], changes: dict[str, object], mpp: float, sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        require_generator(markers, settings(**changes), mpp, 0.75)
