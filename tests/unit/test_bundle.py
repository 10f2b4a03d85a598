"""The bundle's card and its verification; no TensorFlow."""

import dataclasses
import json

import pytest

from tests.fixtures.models import tiny_card
from virtual_stain.errors import ModelError, VerificationError
from virtual_stain.exporting.bundle import find_bundle, verify_bundle, versions, write_bundle_json
from virtual_stain.exporting.card import card_from_json, seen_in_training
from virtual_stain.markers import Marker
from virtual_stain.patients import PatientKey, existing_key, keyed_slides


@pytest.fixture
def bundle(tmp_path):
    folder = tmp_path / "Mödell 1" / "3"
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"graph")
    (folder / "variables" / "variables.index").write_bytes(b"index")
    write_bundle_json(folder, dataclasses.replace(tiny_card(), version=3))
    return folder


def test_a_whole_bundle_is_found_and_verified(bundle):
    verified = verify_bundle(bundle.parent)
    assert verified.folder == bundle
    assert verified.card == dataclasses.replace(tiny_card(stride_um=38.4), version=3)  # the file states the step
    assert len(verified.sha256) == 64


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda f: (f / "variables/variables.index").unlink(), "variables/variables.index: missing"),
        (lambda f: (f / "saved_model.pb").write_bytes(b"Graph"), "saved_model.pb: changed, sha256"),
        (lambda f: (f / "saved_model.pb").write_bytes(b"graph2"), "saved_model.pb: changed, 5 bytes expected"),
        (lambda f: (f / "extra.so").write_bytes(b"x"), "extra.so: additional"),
        (lambda f: (f / "link").symlink_to(f / "saved_model.pb"), "link: additional"),
    ],
)
def test_every_difference_is_named_and_ends_with_3(bundle, damage, sentence):
    damage(bundle)
    with pytest.raises(VerificationError, match="not the one that was exported") as error:
        verify_bundle(bundle)
    assert sentence in str(error.value)
    assert error.value.exit_code == 3


def test_a_file_replaced_by_a_link_to_the_same_bytes_is_refused(bundle, tmp_path):
    other = tmp_path / "elsewhere"
    (bundle / "saved_model.pb").rename(other)
    (bundle / "saved_model.pb").symlink_to(other)
    with pytest.raises(VerificationError, match=r"saved_model\.pb: changed"):
        verify_bundle(bundle)


def test_a_bundle_without_its_card_is_refused(bundle):
    (bundle / "bundle.json").unlink()
    with pytest.raises(VerificationError, match="cannot be verified"):
        verify_bundle(bundle)


def test_the_newest_version_wins_by_number_and_other_folders_are_ignored(tmp_path):
    for name in ("2", "10", ".new-11", "serving", "012"):
        (tmp_path / name).mkdir()
    assert versions(tmp_path) == (2, 10)
    assert find_bundle(tmp_path) == tmp_path / "10"


@pytest.mark.parametrize("name", ["nothing", "empty", "file"])
def test_no_bundle_is_a_model_error_with_the_way_out(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    with pytest.raises(ModelError, match="expected a model bundle") as error:
        verify_bundle(tmp_path / name)
    assert "vstain export" in error.value.hint


def test_a_card_comes_back_as_it_was_written():
    card = tiny_card(markers=(Marker.KI67, Marker.ER), stride_um=19.2, training_slides=("ab", "cd"))
    assert card_from_json(json.loads(json.dumps(card.to_json())), "x") == card


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"schema_version": 2}, "schema_version 1"),
        ({"value_definition": "nonsense"}, "nonsense"),
        ({"markers": ["her2"], "value_definition": "negative_ratio"}, "HER2"),
        ({"markers": []}, "distinct markers"),
        ({"markers": None}, "not usable"),
        ({"crop_px": 4000}, "crop_px"),
        ({"window_um": -1}, "window_um"),
        ({"thresholds": {"min_tissue_fraction": 2, "min_tumour_cells": 1}}, "min_tissue_fraction"),
        ({"thresholds": {}}, "lacks 'min_tissue_fraction'"),
        ({"name": "../evil"}, "name"),
        ({"version": 0}, "version"),
    ],
)
def test_a_card_that_is_not_understood_is_refused_not_approximated(change, sentence):
    with pytest.raises(VerificationError, match=sentence):
        card_from_json(tiny_card().to_json() | change, "bundle.json")


def test_training_slides_are_recognised_with_the_key_alone(tmp_path):
    key, other = PatientKey(b"k" * 32), PatientKey(b"o" * 32)
    slides = keyed_slides(["a" * 64, "b" * 64], key.fingerprint, key)
    card = tiny_card(patient_key_fingerprint=key.fingerprint, training_slides=slides)
    assert "a" * 64 not in json.dumps(card.to_json())
    assert seen_in_training(card, "a" * 64, key) is True
    assert seen_in_training(card, "c" * 64, key) is False
    assert seen_in_training(card, "a" * 64, other) is None
    assert seen_in_training(card, "a" * 64, None) is None
    assert seen_in_training(tiny_card(), "a" * 64, key) is None
    assert keyed_slides(["a" * 64], key.fingerprint, other) == ()


def test_scoring_never_creates_a_patient_key(tmp_path):
    environment = {"XDG_DATA_HOME": str(tmp_path), "HOME": str(tmp_path)}
    assert existing_key(environment) is None
    assert list(tmp_path.iterdir()) == []
