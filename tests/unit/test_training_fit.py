"""A run: whole, interrupted, taken up again, refused, diverged."""

import csv
import json
import os
import shutil
import signal

import keras
import numpy as np
import pytest

from tests.fixtures.records import tiny_records
from tests.fixtures.training import tiny_config, tiny_run
from virtual_stain.errors import ConfigError, InputError, ModelError, OutputError, VerificationError
from virtual_stain.progress import Quiet
from virtual_stain.records.manifest import read_manifest, shard_paths
from virtual_stain.training import identity, loop
from virtual_stain.training.checkpoint import read_checkpoint
from virtual_stain.training.fit import _job, fit
from virtual_stain.training.inputs import read_inputs
from virtual_stain.training.run_dir import RunDir, load_run


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """(records, run), trained without the shards of the test fold on the disk."""
    folder = tmp_path_factory.mktemp("done")
    records, run = folder / "records", folder / "run"
    manifest = tiny_records(records, tile_px=64, window_um=19.2)
    for path in shard_paths(records, manifest.pairs_in([0])):
        path.unlink()
    fit(records, run, tiny_config())
    return records, run


def rows(run):
    with (run / "history.csv").open() as stream:
        return list(csv.DictReader(stream))


def test_what_a_run_leaves(done):
    _, run = done
    assert {p.name for p in run.iterdir()} == {
        ".lock", "run.json", "best.h5", "last.h5", "history.csv", "tensorboard"
    }  # fmt: skip
    record = json.loads((run / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["config"]["training"]["batch_size"] == 8
    assert len(record["data"]["manifest_sha256"]) == 64
    assert record["software"]["tensorflow"]
    steps = [int(r["step"]) for r in rows(run)]
    assert steps == sorted(steps)
    assert [int(r["step"]) for r in rows(run) if r["validation_loss"]] == [4, 8, 12]
    assert any((run / "tensorboard").iterdir())


def test_a_run_takes_no_notice_of_a_seed_of_the_whole_process(done, tmp_path):
    """Through the API somebody may have called keras.utils.set_random_seed; a resumed run would be another one."""
    records, run = done
    keras.utils.set_random_seed(7)
    fit(records, tmp_path / "run", tiny_config())
    expected, received = (read_checkpoint(RunDir(r).last)[0] for r in (run, tmp_path / "run"))
    for group, values in expected.items():
        for value, again in zip(values, received[group], strict=True):
            np.testing.assert_array_equal(value.value, again.value, err_msg=f"{group}/{value.name}")


def test_it_learns(tmp_path):
    _, run = tiny_run(tmp_path, "training.max_steps=60", "training.validate_every_steps=15")
    losses = [float(r["validation_loss"]) for r in rows(run) if r["validation_loss"]]
    assert min(losses) < 0.97 * losses[0]


def test_the_best_weights_come_back_with_the_card(done):
    _, run = done
    loaded, again = load_run(run), load_run(run)
    crops = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    np.testing.assert_array_equal(loaded.model(crops)["ki67"], again.model(crops)["ki67"])
    stored = read_checkpoint(run / "best.h5")[0]["weights"]
    for a, b in zip(loaded.model.get_weights(), stored, strict=True):
        np.testing.assert_array_equal(a, b.value)
    card = loaded.card
    assert card["markers"] == ["ki67"]
    assert card["crop_px"] == 32
    assert card["tiling"] == {"window_um": 19.2, "stride_um": 19.2, "tile_px": 64}
    assert card["thresholds"] == {"min_tissue_fraction": 0.5, "min_tumour_cells": 10.0}
    assert len(card["training_patient_ids"]) == 4  # 6 patients, 2 of them tested on
    assert len(card["training_slide_hashes"]) == 4
    json.dumps(card, allow_nan=False)


def test_no_test_patient_is_read_while_training(done):
    """The test fold's shards were not there, and nobody missed them."""
    records, run = done
    manifest = read_manifest(records)
    assert not any(path.exists() for path in shard_paths(records, manifest.pairs_in([0])))
    assert json.loads((run / "run.json").read_text())["status"] == "finished"


def stop_after(monkeypatch, step):
    """Raises Ctrl-C's signal at an optimizer step, as a user would."""
    original = loop.Trainer._one_step

    def one_step(self, batch, history):
        original(self, batch, history)
        if self.state.step == step:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(loop.Trainer, "_one_step", one_step)


def test_interrupted_and_taken_up_again_it_is_the_undisturbed_run(tmp_path, monkeypatch):
    overrides = ("training.recipe=inception", "training.micro_batch_size=4")
    before = signal.getsignal(signal.SIGINT)  # ignored where a shell started us in the background
    records, undisturbed = tiny_run(tmp_path, *overrides)
    run, config = tmp_path / "interrupted", tiny_config(*overrides)
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            fit(records, run, config)
    assert json.loads((run / "run.json").read_text())["status"] == "interrupted"
    with pytest.raises(OutputError, match="not finished"):
        fit(records, run, config)
    result = fit(records, run, config, resume=True)
    assert result.steps == 12
    assert signal.getsignal(signal.SIGINT) is before
    ours, theirs = (read_checkpoint(d / "last.h5") for d in (run, undisturbed))
    for group in theirs[0]:
        for a, b in zip(ours[0][group], theirs[0][group], strict=True):
            np.testing.assert_allclose(a.value, b.value, rtol=1e-5, atol=1e-6, err_msg=a.name)
    assert ours[1]["best_step"] == theirs[1]["best_step"]
    assert [r["step"] for r in rows(run) if r["validation_loss"]] == ["4", "8", "12"]
    np.testing.assert_allclose(
        [float(r["validation_loss"]) for r in rows(run) if r["validation_loss"]],
        [float(r["validation_loss"]) for r in rows(undisturbed) if r["validation_loss"]],
        rtol=1e-4,
    )


def test_a_kill_between_two_checkpoints_repeats_the_steps_and_the_history(tmp_path, monkeypatch):
    records, undisturbed = tiny_run(tmp_path)
    run = tmp_path / "killed"
    original = loop.Trainer._one_step

    def die(self, batch, history):
        if self.state.step == 6:
            self.save()  # as the clock would have it
        if self.state.step == 9:
            raise RuntimeError("killed")
        original(self, batch, history)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "_one_step", die)
        with pytest.raises(RuntimeError):
            fit(records, run, tiny_config())
    with (run / "history.csv").open("a") as stream:
        stream.write("10,3.3")  # a torn line
    assert fit(records, run, tiny_config(), resume=True).steps == 12
    assert [(r["step"], bool(r["validation_loss"])) for r in rows(run)] == [
        (r["step"], bool(r["validation_loss"])) for r in rows(undisturbed)
    ]
    a, b = (read_checkpoint(d / "best.h5")[1]["validation_loss"] for d in (run, undisturbed))
    assert a == pytest.approx(b, rel=1e-4)


def test_a_finished_run_is_left_as_it_is(done):
    records, run = done
    before = (run / "best.h5").stat().st_mtime_ns
    assert fit(records, run, tiny_config()).steps == 12
    assert (run / "best.h5").stat().st_mtime_ns == before


def test_another_runs_folder_is_refused_with_the_differences(done):
    records, run = done
    with pytest.raises(OutputError, match=r"training\.learning_rate: 0\.002 there, 0\.003 now"):
        fit(records, run, tiny_config("training.learning_rate=3e-3"), resume=True)
    with pytest.raises(OutputError, match="--fold: 0 there, 1 now"):
        fit(records, run, tiny_config(), fold=1)


def test_force_begins_anew(done, tmp_path):
    records, run = done[0], tmp_path / "run"
    shutil.copytree(done[1], run)
    (run / "evaluation.json").write_text("{}")  # of the old weights
    (run / "nan_batch.json").write_text("{}")  # of a run that failed
    result = fit(records, run, tiny_config("training.max_steps=3"), force=True)
    assert result.steps == 3
    assert not (run / "evaluation.json").exists()
    assert not (run / "nan_batch.json").exists()
    assert [r["step"] for r in rows(run) if r["validation_loss"]] == ["3"]


def test_a_folder_of_another_command_is_not_taken_over(tmp_path):
    records, run = tmp_path / "records", tmp_path / "run"
    tiny_records(records, tile_px=64)
    run.mkdir()
    (run / "run.json").write_text('{"command": "score"}')
    with pytest.raises(OutputError, match="belongs to another command"):
        fit(records, run, tiny_config())


def test_nan_stops_with_a_sentence_and_keeps_what_was_good(tmp_path, monkeypatch):
    records = tmp_path / "records"
    tiny_records(records, tile_px=64)
    original = loop.TrainStep.run

    def poisoned(self, batch, micro_batches, rate, decay):
        return original(
            self, batch, micro_batches, float("nan") if int(self.optimizer.iterations) == 6 else rate, decay
        )

    monkeypatch.setattr(loop.TrainStep, "run", poisoned)
    with pytest.raises(ModelError, match=r"(no longer|is not) a number at step 8") as caught:
        fit(records, tmp_path / "run", tiny_config())
    assert "learning_rate" in str(caught.value)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["status"] == "failed"
    assert load_run(tmp_path / "run").card["training"]["best_step"] == 4


def test_it_stops_when_the_validation_loss_no_longer_falls(tmp_path):
    records = tmp_path / "records"
    tiny_records(records, tile_px=64)
    config = tiny_config(
        "training.learning_rate=1e-9", "training.weight_average=0", "model.batch_norm_momentum=0.0",
        "training.patience=2", "training.min_improvement=0.5", "training.max_steps=500",
    )  # fmt: skip
    result = fit(records, tmp_path / "run", config)
    assert result.steps == 12  # validated at 4, 8 and 12: two without a fall
    # killed after last.h5 and before the record of the end: it does not train on past its end
    record = tmp_path / "run" / "run.json"
    record.write_text(record.read_text().replace('"status": "finished"', '"status": "running"'))
    again = fit(records, tmp_path / "run", config, resume=True)
    assert (again.steps, again.best_step, again.reason) == (12, result.best_step, result.reason)
    assert "converged" in result.reason


def test_fine_tuning_runs_both_phases_and_resumes_at_their_border(tmp_path, monkeypatch):
    from virtual_stain.model.small_cnn import small_cnn

    small_cnn(32).save_weights(tmp_path / "start.weights.h5")
    overrides = (
        "training.recipe=finetune", "training.head_steps=4", "training.max_steps=8",
        f"model.weights={tmp_path / 'start.weights.h5'}",
    )  # fmt: skip
    records, _ = tiny_run(tmp_path, *overrides)
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        with pytest.raises(KeyboardInterrupt):
            fit(records, tmp_path / "again", tiny_config(*overrides))
    fit(records, tmp_path / "again", tiny_config(*overrides), resume=True)
    ours, theirs = (read_checkpoint(tmp_path / d / "last.h5")[0]["weights"] for d in ("again", "run"))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a.value, b.value, rtol=1e-4, atol=1e-5, err_msg=a.name)


def test_bad_input_is_refused_before_a_folder_is_made(tmp_path):
    records = tmp_path / "records"
    manifest = tiny_records(records, tile_px=64)
    run = tmp_path / "run"
    with pytest.raises(ConfigError, match="whole number of crops"):
        fit(records, run, tiny_config("model.crop_px=48"))
    with pytest.raises(ConfigError, match="expected 0 to 2"):
        fit(records, run, tiny_config(), fold=3)
    with pytest.raises(InputError, match="manifest"):
        fit(tmp_path, run, tiny_config())
    assert not run.exists()
    shard_paths(records, manifest.pairs)[2].write_bytes(b"")
    with pytest.raises(VerificationError, match="changed since"):
        fit(records, run, tiny_config())
    assert read_manifest(records) == manifest


def test_a_place_that_cannot_be_written_is_exit_3(done, tmp_path):
    records, _ = done
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot be written"):
        fit(records, tmp_path / "file" / "run", tiny_config())


def test_a_tiling_that_is_not_the_records_is_told(tmp_path):
    """configs/demo.toml on records of 0.3 µm/px trained on crops of half the side that it speaks of, without a word."""

    class Listener(Quiet):
        def __init__(self):
            self.said = []

        def say(self, text):
            self.said.append(text)

    manifest = tiny_records(tmp_path / "records", tile_px=64, window_um=19.2)
    (tmp_path / "records" / manifest.pairs[1].shards[0].file).unlink()  # it is told before anything long begins
    for overrides, told in (((), 1), (("tiling.window_um=19.2", "tiling.tile_px=64"), 0)):
        listener = Listener()
        with pytest.raises(VerificationError):
            fit(tmp_path / "records", tmp_path / "run", tiny_config(*overrides), progress=listener)
        assert sum("a crop of 32 px is 9.6 µm" in text for text in listener.said) == told


def test_a_run_that_was_never_validated_has_no_model(tmp_path, monkeypatch):
    records = tmp_path / "records"
    tiny_records(records, tile_px=64)
    stop_after(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt):
        fit(records, tmp_path / "run", tiny_config())
    with pytest.raises(ModelError, match="--resume"):
        load_run(tmp_path / "run")
    with pytest.raises(InputError, match="training run"):
        load_run(records)


def test_validation_crops_without_enough_cells_are_no_loss_of_zero(tmp_path):
    records, run = tmp_path / "records", tmp_path / "run"
    tiny_records(records, tile_px=64, window_um=19.2)
    with pytest.raises(InputError, match=r"model\.crop_px = 32.*training\.min_crop_cells = 1000"):
        fit(records, run, tiny_config("training.min_crop_cells=1000", "training.max_crop_cells=1000"))
    assert not (run / "best.h5").exists()
    assert json.loads((run / "run.json").read_text())["status"] == "failed"


def test_a_kill_while_the_old_run_is_deleted_leaves_no_old_weights_under_a_new_run(done, tmp_path, monkeypatch):
    records, run = done[0], tmp_path / "run"
    shutil.copytree(done[1], run)
    changed = tiny_config("training.max_steps=3")

    def die(path):
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(identity.shutil, "rmtree", die)
        with pytest.raises(RuntimeError):
            fit(records, run, changed, force=True)
    with pytest.raises(OutputError, match="another run"):
        fit(records, run, changed)
    with pytest.raises(OutputError, match=r"best\.h5 is gone"):
        fit(records, run, tiny_config())


def test_checkpoints_without_a_record_are_not_taken_for_the_new_runs(done, tmp_path, monkeypatch):
    records, run = done[0], tmp_path / "run"
    shutil.copytree(done[1], run)
    (run / "run.json").unlink()
    (run / "evaluation.json").write_text("{}")
    stop_after(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt):
        fit(records, run, tiny_config())
    assert not (run / "best.h5").exists()
    assert not (run / "evaluation.json").exists()


def test_another_content_of_the_weights_file_is_another_run(tmp_path):
    from virtual_stain.model.small_cnn import small_cnn

    weights = tmp_path / "start.weights.h5"
    small_cnn(32).save_weights(weights)
    overrides = ("training.max_steps=2", f"model.weights={weights}")
    records, run = tiny_run(tmp_path, *overrides)
    config = tiny_config(*overrides)
    assert len(json.loads((run / "run.json").read_text())["data"]["weights_sha256"]) == 64
    assert fit(records, run, config).steps == 2
    weights.write_bytes(weights.read_bytes() + b" ")
    with pytest.raises(OutputError, match=r"content of model\.weights"):
        fit(records, run, config)
    weights.unlink()
    assert fit(records, run, config).steps == 2, "a checkpoint needs no starting weights"


def test_the_mean_cells_of_a_crop_are_those_of_the_tiles_that_were_counted(tmp_path):
    """The manifest sums the cells of the tiles with a ratio: the others must not enter the divisor."""
    manifest = tiny_records(tmp_path, tile_px=64, window_um=19.2, few_cells_every=2)
    inputs = read_inputs(tmp_path, tiny_config(), 0)
    train = inputs.split.train
    assert sum(p.n_ratio for p in train) < sum(p.n_records for p in train) <= sum(p.n_records for p in manifest.pairs)
    mean = sum(p.positive + p.negative for p in train) / sum(p.n_ratio for p in train) / 4
    factor = _job(inputs, RunDir(tmp_path), load_weights=False).loss.cells_factor
    assert factor == pytest.approx(inputs.config.training.cells_loss_weight / mean)
