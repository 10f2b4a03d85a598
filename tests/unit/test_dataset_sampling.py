"""How often tiles are drawn."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tests.fixtures.records import tiny_records
from virtual_stain.dataset.sampling import RATIO_EDGES, draws_of_epoch, tile_weights
from virtual_stain.records.manifest import shard_paths
from virtual_stain.records.read import iterate_shard


def seed(n):
    return tf.constant([3, n], tf.int64)


@pytest.mark.parametrize("replacement", [False, True])
def test_an_epoch_has_as_many_draws_as_tiles(replacement):
    weights = np.random.default_rng(0).uniform(0.1, 3, 101)
    weights /= weights.mean()
    epochs = [draws_of_epoch(weights, 101, seed(n), replacement=replacement).numpy() for n in range(200)]
    assert all(e.sum() == 101 for e in epochs)
    assert all((e >= 0).all() for e in epochs)
    np.testing.assert_allclose(np.mean(epochs, axis=0), weights, atol=0.35)
    if not replacement:
        assert all((np.abs(e - weights) < 1 + 1e-9).all() for e in epochs)
    assert np.array_equal(epochs[0], draws_of_epoch(weights, 101, seed(0), replacement=replacement).numpy())
    assert not np.array_equal(epochs[0], epochs[1])


def test_equal_weights_without_replacement_are_every_tile_once():
    assert (draws_of_epoch(None, 1000, seed(0), replacement=False).numpy() == 1).all()
    with_replacement = draws_of_epoch(None, 1000, seed(0), replacement=True).numpy()
    assert 0.32 < (with_replacement == 0).mean() < 0.42, "about 1/e are left out"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("records")
    return path, tiny_records(path, tile_px=64, tiles_per_pair=40, patients=3)


def test_ratio_bins_get_equal_shares_and_tiles_without_label_keep_theirs(folder):
    path, manifest = folder
    weights = tile_weights(path, manifest.pairs, "ratio")
    records = [r for p in shard_paths(path, manifest.pairs) for r in iterate_shard(p)]
    labelled = np.array([r["label/weight"] > 0 for r in records])
    ratio = np.array([r["label/positive"] / max(r["label/positive"] + r["label/negative"], 1) for r in records])
    bins = np.where(labelled, np.searchsorted(RATIO_EDGES[1:-1], ratio, side="right"), -1)
    shares = {b: weights[bins == b].sum() for b in set(bins[labelled].tolist())}
    assert max(shares.values()) / min(shares.values()) < 1.7, "equal, up to the cap of rare bins"
    counts = [int((bins == b).sum()) for b in shares]
    assert max(counts) / min(counts) > 10, "they were not equal before"
    assert weights.mean() == pytest.approx(1)
    assert weights[~labelled].sum() == pytest.approx((~labelled).sum(), rel=0.1)


def test_patients_get_equal_shares(folder):
    path, manifest = folder
    first, second, third = manifest.pairs
    pairs = (first, dataclasses.replace(second, patient_id=third.patient_id), third)
    weights = tile_weights(path, pairs, "patient")
    assert weights[:40].sum() == pytest.approx(weights[40:].sum())
    assert tile_weights(path, pairs, "none") is None


def test_no_tile_is_drawn_more_than_eight_times_as_often_as_the_mean(folder):
    """One tile of a patient beside 999 of another: cutting before the mean was made 1 let it be drawn sixteen times."""
    first, second, _ = folder[1].pairs
    for alone in (1, 3, 50):
        pairs = [dataclasses.replace(first, n_records=alone), dataclasses.replace(second, n_records=1000 - alone)]
        weights = tile_weights(folder[0], pairs, "patient")
        assert weights.mean() == pytest.approx(1)
        assert weights.max() <= 8 * (1 + 1e-6)
        assert weights[0] == pytest.approx(8)
