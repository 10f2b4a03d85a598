"""Training of the indirect path: from IHC shards to densities, the loss of sections without shared cells, the run."""

from __future__ import annotations

import dataclasses
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.fixtures.records import TINY_STAIN, tiny_records
from tests.fixtures.training import tiny_config
from virtual_stain.config import AugmentSettings
from virtual_stain.counting.vectors import SECOND_COLOUR
from virtual_stain.dataset.augment import N_DRAWS, augment, orient
from virtual_stain.dataset.ihc_side import ihc_side, registration_weight
from virtual_stain.dataset.pipeline import CropSpec, TrainingOrder, training_batches
from virtual_stain.dataset.shards import reading_errors
from virtual_stain.errors import ConfigError, InputError, VerificationError
from virtual_stain.exporting.bundle import verify_bundle
from virtual_stain.exporting.model_card import MODEL_CARD
from virtual_stain.exporting.saved_model import export_run
from virtual_stain.markers import Marker, ValueDefinition
from virtual_stain.model.tile_reading import tile_reading
from virtual_stain.model.virtual_losses import density_loss_sum
from virtual_stain.records.ihc_shards import iterate_ihc_shard, stage_ihc_shards
from virtual_stain.records.manifest import Manifest, read_manifest
from virtual_stain.report.evidence import evidence_of
from virtual_stain.training import loop
from virtual_stain.training.checkpoint import read_checkpoint
from virtual_stain.training.fit import fit
from virtual_stain.training.identity import differences
from virtual_stain.training.run_dir import load_run

INDIRECT = ("model.path=indirect", "model.dropout=0", "training.max_steps=6", "training.validate_every_steps=3")
TINY = {"patients": 8, "n_folds": 8, "tiles_per_pair": 4, "tile_px": 64, "window_um": 19.2, "error_p95_um": 2.0}


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("indirect") / "records"
    tiny_records(folder, keep_ihc=True, **TINY)
    return folder


@pytest.fixture(scope="module")
def done(records: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run."""
    run = tmp_path_factory.mktemp("done") / "run"
    fit(records, run, tiny_config(*INDIRECT))
    return run


def batch_of(folder: Path, manifest: Manifest) -> dict[str, tf.Tensor]:
    order = TrainingOrder(batch_size=16, seed=0, shuffle_tiles=16, augment=AugmentSettings())
    spec = CropSpec(markers=(Marker.KI67,), tile_px=64, crop_px=32)
    side = ihc_side(folder, manifest.pairs)
    return next(iter(training_batches(folder, manifest.pairs, spec, order, side)))


def test_densities_are_measured_on_the_slides_own_scale(records: Path) -> None:
    manifest = read_manifest(records)
    batch = batch_of(records, manifest)
    stain = batch["stain"].numpy()
    assert stain.shape == (16, 8, 8, 2)
    positive, cells = batch["positive"].numpy()[:, 0], batch["cells"].numpy()[:, 0]
    # the discs lie elsewhere than in the H&E crop, so only means over many crops can agree
    assert 0.05 < stain[..., 0].mean() < 3
    assert 0.02 < stain[..., 1].mean() < 3
    assert 0 < positive.sum() < cells.sum()
    np.testing.assert_allclose(batch["stain_weight"], float(registration_weight(tf.constant(1.0))), rtol=1e-6)
    twice = dataclasses.replace(TINY_STAIN, positive_od=0.4)
    pairs = tuple(dataclasses.replace(p, ihc=dataclasses.replace(p.ihc, stain=twice)) for p in manifest.pairs)
    halved = batch_of(records, dataclasses.replace(manifest, pairs=pairs))["stain"].numpy()
    np.testing.assert_allclose(halved[..., 0], stain[..., 0] / 2, rtol=1e-5)
    np.testing.assert_allclose(halved[..., 1], stain[..., 1], rtol=1e-5)


def test_a_pair_whose_stains_are_unclear_teaches_no_density(records: Path) -> None:
    manifest = read_manifest(records)
    unclear = dataclasses.replace(TINY_STAIN, flags=(SECOND_COLOUR,))
    first = dataclasses.replace(manifest.pairs[0], ihc=dataclasses.replace(manifest.pairs[0].ihc, stain=unclear))
    manifest = dataclasses.replace(manifest, pairs=(first, *manifest.pairs[1:]))
    assert ihc_side(records, manifest.pairs).left_out == (first.pair,)
    batch = batch_of(records, manifest)
    ours = np.array([t.decode().startswith(first.pair) for t in batch["tile"].numpy()])
    assert 0 < ours.sum() < len(ours)
    np.testing.assert_array_equal(batch["stain_weight"].numpy() == 0, ours)


def test_an_ihc_tile_of_another_record_stops_the_training(records: Path, tmp_path: Path) -> None:
    folder = tmp_path / "records"
    manifest = tiny_records(folder, keep_ihc=True, **TINY)
    pair = manifest.pairs[0]
    tiles = list(iterate_ihc_shard(folder / pair.ihc.shards[0].file))
    staged = stage_ihc_shards(folder, pair.pair, tiles[::-1], pair.shards)
    staged.commit()
    with pytest.raises(VerificationError, match="label/id differs"), reading_errors(folder):
        for _ in range(4):
            batch_of(folder, dataclasses.replace(manifest, pairs=(pair,)))


def test_maps_turn_as_their_crops_do() -> None:
    rng = np.random.default_rng(0)
    crops = rng.integers(0, 256, (32, 8, 8, 3)).astype(np.uint8)
    draws = rng.uniform(size=(32, N_DRAWS)).astype(np.float32)
    plain = AugmentSettings(
        hematoxylin_gain=0, eosin_gain=0, channel_gain=0, channel_shift=0, brightness=0, contrast=0, blur_px=0
    )
    turned = orient(tf.constant(crops, tf.float32), tf.constant(draws), plain)
    np.testing.assert_array_equal(turned.numpy(), augment(tf.constant(crops), tf.constant(draws), plain).numpy())
    assert (turned.numpy() != crops).any()


def test_the_loss_learns_the_mean_and_not_the_median() -> None:
    rng = np.random.default_rng(1)
    seen = np.zeros((200, 8, 8, 2), np.float32)
    seen[..., 0] = (rng.uniform(size=200) < 0.3)[:, None, None]  # three sections in ten are brown
    levels = np.linspace(0, 1, 101)
    ones = tf.ones(200)
    losses = [
        float(density_loss_sum(tf.fill(seen.shape, float(v)) * [1.0, 0.0], tf.constant(seen), ones, 2 * ones, 76.8))
        for v in levels
    ]
    assert levels[np.argmin(losses)] == pytest.approx(seen[..., 0].mean(), abs=0.011)
    assert np.median(seen[:, 0, 0, 0]) == 0


@pytest.mark.parametrize(
    ("p95_um", "counts"), [(9.0, (True, True)), (12.0, (False, True)), (25.0, (False, False)), (np.nan, (False, False))]
)
def test_windows_are_wide_against_the_registration_error(p95_um: float, counts: tuple[bool, bool]) -> None:
    """`counts`: whether a difference inside half a crop is seen, and one of the whole crop."""
    inside, whole = np.zeros((1, 16, 16, 2), np.float32), np.ones((1, 16, 16, 2), np.float32)
    inside[:, :8], inside[:, 8:] = 1, -1  # sums to nothing over the crop
    for difference, counted in zip((inside, whole), counts, strict=True):
        lost = density_loss_sum(
            tf.constant(difference), tf.zeros((1, 16, 16, 2)), tf.ones(1), tf.constant([p95_um], tf.float32), 76.8
        )
        assert (float(lost) > 0) == counted


def test_interrupted_and_taken_up_again_it_is_the_undisturbed_run(
    records: Path, done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(*INDIRECT)
    original = loop.Trainer._one_step

    def one_step(self: loop.Trainer, batch: dict, history: object) -> None:
        original(self, batch, history)
        if self.state.step == 4:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "_one_step", one_step)
        with pytest.raises(KeyboardInterrupt):
            fit(records, tmp_path / "torn", config)
    fit(records, tmp_path / "torn", config, resume=True)
    ours, theirs = (read_checkpoint(folder / "last.h5") for folder in (tmp_path / "torn", done))
    for group in theirs[0]:
        for a, b in zip(ours[0][group], theirs[0][group], strict=True):
            np.testing.assert_allclose(a.value, b.value, rtol=1e-5, atol=1e-6, err_msg=a.name)


def test_the_weights_of_the_densities_come_back(done: Path) -> None:
    """They are no part of the network that reads values: best.h5 had left them out, and maps came back from random."""
    best = read_checkpoint(done / "best.h5")[0]["weights"]
    run = load_run(done)
    assert [v.name for v in best][-2:] == ["ki67_gates/kernel", "ki67_gates/bias"]
    np.testing.assert_array_equal(run.network.generator.get_layer("ki67_gates").kernel, best[-2].value)
    assert run.card["training"]["path"] == "indirect"
    assert np.abs(best[-1].value).max() > 0, "the densities were learned from"


def test_a_bundle_answers_the_expected_ratio_through_the_signatures_that_all_clients_know(
    done: Path, tmp_path: Path
) -> None:
    run, folder = load_run(done), export_run(done, tmp_path / "model")
    tiles = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype(np.uint8)
    tiles[1] //= 2
    wanted = tile_reading(run.model, tf.constant(tiles), ValueDefinition.POSITIVE_RATIO, run.network.crop_weights)
    signatures = tf.saved_model.load(str(folder)).signatures
    answer = signatures["uint8"](tiles=tf.constant(tiles))
    assert set(answer) == {"ki67", "ki67_tumour_cells"}
    for name, values in answer.items():
        np.testing.assert_allclose(values.numpy(), wanted[name].numpy(), rtol=1e-4)
    window = tf.constant(np.concatenate(tiles)[None, :96, :48])
    maps = signatures["virtual"](windows=window)
    for name, values in run.network.generator(window, training=False).items():
        assert values.shape == (1, 24, 12)
        np.testing.assert_allclose(maps[name].numpy(), values.numpy(), rtol=1e-3, atol=1e-6)
    card = verify_bundle(tmp_path / "model").card
    training = card.training
    assert "indirect path" in evidence_of(card).sentences[-1], "every report says it"
    assert (training["path"], training["kind"]) == ("indirect", "small_generator")
    assert "small_generator" in (folder / MODEL_CARD).read_text(encoding="utf-8")


def test_a_run_from_before_the_second_path_is_still_the_same_run() -> None:
    """A setting that is new was "None there, 'direct' now": no older run could be taken up any more."""
    config = tiny_config()
    recorded = config.to_dict()
    del recorded["model"]["path"], recorded["model"]["generator"], recorded["training"]["stain_loss_weight"]
    data = {"fold": 0, "manifest_sha256": "a", "folds": {}, "weights_sha256": None}
    record = {"config": recorded, "data": data}
    assert differences(record, config, data) == []
    assert differences(record, tiny_config("model.path=indirect"), data) == [
        "model.path: 'direct' there, 'indirect' now"
    ]


def test_direct_training_reads_not_one_byte_of_the_ihc_side(records: Path, tmp_path: Path) -> None:
    folder = tmp_path / "records"
    manifest = tiny_records(folder, keep_ihc=True, **TINY)
    for pair in manifest.pairs:
        for shard in pair.ihc.shards:
            (folder / shard.file).unlink()
    steps = ("training.max_steps=1", "training.validate_every_steps=1")
    fit(folder, tmp_path / "direct", tiny_config(*steps))
    with pytest.raises(VerificationError, match="missing"):
        fit(folder, tmp_path / "indirect", tiny_config(*INDIRECT))


def test_what_it_cannot_learn_from_is_refused_before_a_folder_is_made(records: Path, tmp_path: Path) -> None:
    without = tmp_path / "without"
    tiny_records(without, **TINY)
    few = tmp_path / "few"
    tiny_records(few, keep_ihc=True, **(TINY | {"patients": 7}))
    her2 = tmp_path / "her2"
    tiny_records(her2, keep_ihc=True, marker="her2", **TINY)
    config, run = tiny_config(*INDIRECT), tmp_path / "run"
    with pytest.raises(InputError, match=r"8 pairs|6 pairs without it"):
        fit(without, run, config)
    with pytest.raises(InputError, match="at least 6 training patients for the indirect path. Received: 5"):
        fit(few, run, config)
    with pytest.raises(ConfigError, match="share no membranes"):
        fit(her2, run, config)
    assert not run.exists()
