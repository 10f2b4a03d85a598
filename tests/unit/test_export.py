"""The SavedModel bundle: what the graph answers, versions, and what TF Serving finds beside it."""

import dataclasses
import io
import json

import numpy as np
import pytest
import tensorflow as tf
import yaml
from PIL import Image

from tests.fixtures.models import expected_reading, tiny_card, write_tiny_bundle
from virtual_stain.appearance import Appearance, training_range
from virtual_stain.config.training import ModelSettings
from virtual_stain.errors import ModelError, OutputError, VerificationError
from virtual_stain.exporting import saved_model
from virtual_stain.exporting.bundle import verify_bundle, versions
from virtual_stain.exporting.evaluation import held_out
from virtual_stain.exporting.serving import prediction_log
from virtual_stain.exporting.signing import create_key, load_signing_key, sign_bundle, signer_of
from virtual_stain.files import sha256_file
from virtual_stain.intervals import fit_interval
from virtual_stain.markers import Marker, ValueDefinition
from virtual_stain.model.build import BuildOptions, build_network
from virtual_stain.model.tile_reading import tile_reading
from virtual_stain.patients import PatientKey
from virtual_stain.scoring import local
from virtual_stain.scoring.local import LocalPredictor
from virtual_stain.training.run_dir import TrainedRun


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    out = tmp_path_factory.mktemp("a model") / "ki67 modèle"
    write_tiny_bundle(out)
    return out


@pytest.fixture(scope="module")
def loaded(model):
    return tf.saved_model.load(str(model / "1"))


@pytest.fixture(scope="module")
def tiles():
    rng = np.random.default_rng(0)
    smooth = rng.integers(40, 220, (5, 8, 8, 3)).astype(np.uint8)
    return np.stack([np.asarray(Image.fromarray(s).resize((128, 128), Image.Resampling.BICUBIC)) for s in smooth])


def encoded(tile, kind):
    stream = io.BytesIO()
    Image.fromarray(tile).save(stream, kind, **({"quality": 95, "subsampling": 0} if kind == "JPEG" else {}))
    return stream.getvalue()


def test_both_ways_in_answer_what_the_pixels_say(loaded, tiles):
    raw = loaded.signatures["uint8"](tiles=tf.constant(tiles))
    png = loaded.signatures["serving_default"](image_bytes=tf.constant([encoded(t, "PNG") for t in tiles]))
    assert set(raw) == set(png) == {"ki67", "ki67_tumour_cells"}
    for name in raw:
        expected = [expected_reading(t)[name] for t in tiles]
        assert raw[name].dtype == tf.float32
        np.testing.assert_allclose(raw[name].numpy(), expected, rtol=1e-5)
        np.testing.assert_array_equal(raw[name].numpy(), png[name].numpy())


def test_jpeg_tiles_are_decoded_as_everywhere_else_and_score_the_same(loaded, tiles):
    """Stored and served tiles are JPEG 95 4:4:4: |score(raw) − score(JPEG)| ≤ 0.01."""
    raw = loaded.signatures["uint8"](tiles=tf.constant(tiles))["ki67"].numpy()
    data = [encoded(t, "JPEG") for t in tiles]
    jpeg = loaded.signatures["serving_default"](image_bytes=tf.constant(data))["ki67"].numpy()
    decoded = [expected_reading(np.asarray(Image.open(io.BytesIO(d))))["ki67"] for d in data]
    assert np.abs(jpeg - raw).max() <= 0.01
    np.testing.assert_allclose(jpeg, decoded, atol=1e-5)


@pytest.mark.parametrize("shape", [(127, 128, 3), (64, 256, 3), (256, 256, 3)])
def test_a_tile_of_another_size_is_an_error_never_a_resize(loaded, shape):
    data = encoded(np.zeros(shape, np.uint8), "PNG")
    with pytest.raises(tf.errors.InvalidArgumentError, match="Expected tiles of 128 × 128 px"):
        loaded.signatures["serving_default"](image_bytes=tf.constant([data]))


def test_bytes_that_are_no_image_are_an_error(loaded):
    with pytest.raises(tf.errors.InvalidArgumentError):
        loaded.signatures["serving_default"](image_bytes=tf.constant([b"no image"]))


def test_describe_answers_the_card_of_bundle_json(model, loaded):
    answer = loaded.signatures["describe"](query=tf.constant(["", "x"]))["card"].numpy()
    written = json.loads((model / "1" / "bundle.json").read_text())
    del written["files"]
    assert json.loads(answer[0]) == json.loads(answer[1]) == written


def test_the_local_predictor_is_the_bundle(model, tiles):
    predictor = LocalPredictor(model)
    assert predictor.card.tiling.tile_px == 128
    assert predictor.sha256 == verify_bundle(model).sha256
    whole = predictor.predict(tiles)
    single = [predictor.predict(tiles[i : i + 1]) for i in range(len(tiles))]
    for name, values in whole.items():
        assert values.dtype == np.float32
        np.testing.assert_allclose(values, np.concatenate([s[name] for s in single]), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("shape", [(2, 64, 128, 3), (1, 256, 256, 3), (2, 64, 256, 3)])
def test_pixels_of_another_size_are_refused_too(model, shape):
    """TensorFlow does not check the shape that a signature promises: 64 × 128 px were once scored in silence."""
    with pytest.raises(ModelError, match="Expected tiles of 128 × 128 px"):
        LocalPredictor(model).predict(np.zeros(shape, np.uint8))


def test_nothing_is_loaded_before_everything_is_verified(tmp_path, monkeypatch):
    folder = write_tiny_bundle(tmp_path / "m")
    (folder / "variables" / "variables.index").write_bytes(b"other")
    monkeypatch.setattr(local.tf.saved_model, "load", lambda *_: pytest.fail("loaded"))
    with pytest.raises(VerificationError, match=r"variables/variables\.index"):
        LocalPredictor(tmp_path / "m")


def test_a_card_that_contradicts_the_graph_is_refused(tmp_path):
    """bundle.json can be rewritten with valid hashes; the card inside the graph cannot."""
    from virtual_stain.exporting.bundle import write_bundle_json

    folder = write_tiny_bundle(tmp_path / "m")
    (folder / "bundle.json").unlink()
    write_bundle_json(folder, tiny_card(min_tumour_cells=1))
    with pytest.raises(ModelError, match="two different"):
        LocalPredictor(folder)


def test_versions_count_up_and_are_never_overwritten(tmp_path):
    out = tmp_path / "m"
    assert write_tiny_bundle(out).name == "1"
    assert write_tiny_bundle(out, version=7).name == "7"
    assert write_tiny_bundle(out).name == "8"
    before = (out / "7" / "bundle.json").read_bytes()
    with pytest.raises(OutputError, match="never overwritten"):
        write_tiny_bundle(out, version=7)
    assert (out / "7" / "bundle.json").read_bytes() == before
    assert verify_bundle(out).card.version == 8


def test_a_signed_version_appears_signed_or_not_at_all(tmp_path):
    create_key(tmp_path / "lab.pem")
    key = load_signing_key(tmp_path / "lab.pem")
    folder = write_tiny_bundle(tmp_path / "m", seal=lambda new: sign_bundle(new, key))
    assert signer_of(folder) == key.public
    assert verify_bundle(folder).folder == folder

    def broken(new):
        raise ModelError("no ink")

    with pytest.raises(ModelError, match="no ink"):
        write_tiny_bundle(tmp_path / "m", seal=broken)
    assert versions(tmp_path / "m") == (1,)


def test_a_failed_export_leaves_no_version(tmp_path, monkeypatch):
    out = tmp_path / "m"
    (out / ".new-1" / "variables").mkdir(parents=True)  # of a run that was killed
    monkeypatch.setattr(saved_model, "_write_warmup", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OutputError, match="the disk is full"):
        write_tiny_bundle(out)
    assert [p.name for p in out.iterdir()] == [".lock"]


def test_a_network_that_answers_other_names_than_its_card_is_refused(tmp_path):
    with pytest.raises(ModelError, match="expected a network that answers"):
        saved_model.write_bundle(lambda t: {"ki67": tf.zeros([1])}, [], tiny_card(), tmp_path / "m")


def _prediction_log_class():
    from tensorflow_serving.apis import prediction_log_pb2

    return prediction_log_pb2.PredictionLog


def test_the_warmup_file_is_prediction_logs_that_the_model_answers(model, loaded):
    log = _prediction_log_class()
    records = list(tf.data.TFRecordDataset(str(model / "1" / saved_model.WARMUP)).as_numpy_iterator())
    signatures = []
    for record in records:
        message = log.FromString(record)
        assert message.SerializeToString(deterministic=True) == record, "nothing unknown, nothing lost"
        request = message.predict_log.request
        assert request.model_spec.name == "tiny"
        signatures.append(request.model_spec.signature_name)
        inputs = {k: tf.constant(tf.make_ndarray(v)) for k, v in request.inputs.items()}
        answer = loaded.signatures[signatures[-1]](**inputs)
        if signatures[-1] == "serving_default":
            assert 0 < float(answer["ki67"][0]) < 1
    assert signatures == ["serving_default", "uint8", "center", "center_uint8", "describe"]


def test_long_messages_are_encoded_with_long_lengths():
    message = _prediction_log_class().FromString(prediction_log("n" * 300, "s", {}))
    assert message.predict_log.request.model_spec.name == "n" * 300


def test_serving_files_name_the_model_and_survive_the_next_version(tmp_path):
    out = tmp_path / "m"
    write_tiny_bundle(out)
    texts = {p.name: p.read_text() for p in (out / "serving").iterdir()}
    assert set(texts) == {"models.config", "batching.config", "docker-compose.yml", "kubernetes.yaml"}
    assert not any("@" in t for t in texts.values())
    assert 'base_path: "/models/tiny"' in texts["models.config"]
    assert '"..:/models/tiny:ro"' in texts["docker-compose.yml"]
    assert "--model_config_file=/models/tiny/serving/models.config" in texts["docker-compose.yml"]
    deployment, service = yaml.safe_load_all(texts["kubernetes.yaml"])
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    assert container["readinessProbe"]["httpGet"]["path"] == "/v1/models/tiny"
    assert "--model_config_file=/models/tiny/serving/models.config" in container["args"]
    assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"] == {"app": "vstain-tiny"}
    assert yaml.safe_load(texts["docker-compose.yml"])["services"]["serving"]["ports"] == ["8500:8500", "8501:8501"]
    (out / "serving" / "batching.config").write_text("tuned by hand")
    write_tiny_bundle(out)
    assert (out / "serving" / "batching.config").read_text() == "tuned by hand"


@pytest.fixture
def run(monkeypatch, tmp_path):
    """A run with a small network, without a training."""
    key = PatientKey(b"0123456789abcdef")
    (tmp_path / "key").write_bytes(key.secret)
    monkeypatch.setenv("VSTAIN_PATIENT_KEY", str(tmp_path / "key"))
    settings = ModelSettings(kind="small_cnn", weights="none", crop_px=64)
    network = build_network(settings, (Marker.KI67,), BuildOptions(seed=1))
    card = {
        "markers": ["ki67"],
        "value_definition": "positive_ratio",
        "tiling": {"window_um": 38.4, "stride_um": 38.4, "tile_px": 128},
        "crop_px": 64,
        "crop_weights": "equal",
        "thresholds": {"min_tissue_fraction": 0.5, "min_tumour_cells": 50.0},
        "patient_key_fingerprint": key.fingerprint,
        "training_patient_ids": ["secret-patient-id"],
        "training_slide_hashes": ["a" * 64],
        "training": {"recipe": "scratch", "best_step": 40},
        "training_range": training_range([Appearance(0.3, 0.2, 0.02, -0.5, 0.9, 40)]),
    }
    trained = TrainedRun(tmp_path / "run", network.model, card, None, network, {})
    monkeypatch.setattr(saved_model, "load_run", lambda _: trained)
    return trained


def test_a_run_is_exported_with_its_weights_and_what_it_was_trained_on(run, tmp_path, tiles):
    folder = saved_model.export_run(tmp_path / "run", tmp_path / "Ki67 modèle №1")
    predictor = LocalPredictor(folder)
    expected = tile_reading(run.model, tf.constant(tiles), ValueDefinition.POSITIVE_RATIO)
    for name, values in predictor.predict(tiles).items():
        np.testing.assert_allclose(values, expected[name].numpy(), rtol=1e-5, atol=1e-6)
    assert predictor.card.name == "Ki67_mod_le_1"
    assert predictor.card.training == {"recipe": "scratch", "best_step": 40, "evaluation": None}
    assert len(predictor.card.training_slides) == 1
    text = (folder / "bundle.json").read_text()
    assert "a" * 64 not in text
    assert "secret-patient-id" not in text
    card = (folder / "model_card.md").read_text()
    assert "Ki67: none; no out-of-fold readings" in card
    assert "None: the run was not evaluated with these weights" in card
    assert "Research use only" in card
    assert "model_card.md" in text, "listed with its sha256"


@pytest.mark.parametrize("known", [True, False])
def test_held_out_figures_stand_in_the_card_when_they_are_of_these_weights(run, tmp_path, known):
    tiles = {"n_labelled": 9, "n_patients": 2, "pearson_within_patient": 0.5, "pearson_pooled": 0.6, "mae": 0.04}
    names = ["n", "mae", "bias", "limits_of_agreement", "pearson", "icc_2_1", "calibration", "cut_offs", "intervals"]
    level = dict.fromkeys(names) | {"n": 2, "mae": 0.03}
    interval = fit_interval([])
    figures = {
        "tiles": tiles | {"pearson_per_patient": {"id": 0.5}}, "slide_agreement": level | {"spearman": 1.0},
        "patient_agreement": level, "slides": [{}], "interval": interval, "interval_check": None,
    }  # fmt: skip
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "best.h5").write_bytes(b"weights")
    digest = sha256_file(tmp_path / "run" / "best.h5") if known else "0" * 64
    value = {
        "runs": [{"name": "run", "fold": 0, "best_step": 40, "best_sha256": digest}],
        "held_out": "test fold", "fold": 0, "duplicate_tissue": None, "markers": {"ki67": figures},
    }  # fmt: skip
    (tmp_path / "run" / "evaluation.json").write_text(json.dumps(value))
    card = verify_bundle(saved_model.export_run(tmp_path / "run", tmp_path / "m")).card
    short = {"tiles": tiles, "slides": level, "patients": level, "interval_check": None}
    expected = {"held_out": "test fold", "fold": 0, "duplicate_tissue": None, "markers": {"ki67": short}}
    assert card.training["evaluation"] == (expected if known else None)
    assert card.intervals == ({"ki67": interval} if known else {})
    assert card.training_range == run.card["training_range"]
    (tmp_path / "run").rename(tmp_path / "renamed")
    assert (held_out(tmp_path / "renamed").figures is not None) == known, "the weights count, not the folder's name"
    (tmp_path / "renamed").rename(tmp_path / "run")
    (tmp_path / "run" / "evaluation.json").write_text('{"best_step": 40}')
    with pytest.raises(VerificationError, match="vstain evaluate"):
        saved_model.export_run(tmp_path / "run", tmp_path / "m")


def test_padding_is_left_out_by_the_graph_and_a_tile_of_it_has_no_reading(run, tmp_path, tiles):
    predictor = LocalPredictor(saved_model.export_run(tmp_path / "run", tmp_path / "m"))
    padded = tiles[:1].copy()
    padded[:, 64:] = 255
    padded[:, :, 64:] = 255
    crop = run.model(tf.constant(padded[:, :64, :64]), training=False)
    answer = predictor.predict(np.concatenate([padded, np.full_like(padded, 255)]))
    assert answer["ki67"][0] == pytest.approx(float(crop["ki67"][0]), rel=1e-5)
    assert np.isnan(answer["ki67"][1])
    assert answer["ki67_tumour_cells"][1] == 0


def test_without_the_key_of_the_records_the_bundle_says_that_it_does_not_know(run, tmp_path, monkeypatch):
    (tmp_path / "other").write_bytes(b"fedcba9876543210")
    monkeypatch.setenv("VSTAIN_PATIENT_KEY", str(tmp_path / "other"))
    said = []

    class Say:
        def say(self, text):
            said.append(text)

    folder = saved_model.export_run(tmp_path / "run", tmp_path / "m", progress=Say())
    assert verify_bundle(folder).card.training_slides == ()
    assert "cannot warn" in said[0]


def test_a_random_network_scores_raw_and_jpeg_tiles_alike(run, tmp_path, tiles):
    """The bound that stored tiles rest on, through convolutions: |score(raw) − score(JPEG 95)| ≤ 0.01."""
    folder = saved_model.export_run(tmp_path / "run", tmp_path / "m")
    loaded = tf.saved_model.load(str(folder))
    raw = loaded.signatures["uint8"](tiles=tf.constant(tiles))["ki67"].numpy()
    data = tf.constant([encoded(t, "JPEG") for t in tiles])
    jpeg = loaded.signatures["serving_default"](image_bytes=data)["ki67"].numpy()
    assert np.abs(raw - jpeg).max() <= 0.01


def test_the_card_of_a_bundle_carries_its_own_version(tmp_path):
    folder = write_tiny_bundle(tmp_path / "m", dataclasses.replace(tiny_card(), version=99), version=4)
    assert verify_bundle(folder).card.version == 4
