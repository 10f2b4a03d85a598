"""Folds are made of patients; nobody stands on two sides."""

import dataclasses

import pytest

from tests.fixtures.records import tiny_records
from virtual_stain.dataset.split import equal_labels, split_by_patient, trained_markers
from virtual_stain.errors import ConfigError, InputError, VerificationError


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return tiny_records(tmp_path_factory.mktemp("records"), tiles_per_pair=2, n_folds=5, patients=7, tile_px=64)


@pytest.mark.parametrize("fold", range(5))
def test_sides_are_disjoint_and_complete(manifest, fold):
    split = split_by_patient(manifest, fold)
    patients = split.patients()
    assert not set(patients["train"]) & set(patients["validation"])
    assert not set(patients["train"]) & set(patients["test"])
    assert not set(patients["validation"]) & set(patients["test"])
    assert sum(len(p) for p in patients.values()) == 7
    assert {p.fold for p in split.test} == {fold}
    assert {p.fold for p in split.validation} == {(fold + 1) % 5}


def test_a_fold_that_does_not_exist_is_named(manifest):
    with pytest.raises(ConfigError, match="expected 0 to 4. Received: 5"):
        split_by_patient(manifest, 5)


def test_a_side_without_patients_is_refused_with_the_folds(manifest):
    thin = dataclasses.replace(manifest, pairs=tuple(p for p in manifest.pairs if p.fold != 1))
    with pytest.raises(InputError, match="no usable label for validation.*fold 1: 0"):
        split_by_patient(thin, 0)


def test_two_folds_are_too_few(manifest):
    two = dataclasses.replace(
        manifest, n_folds=2, pairs=tuple(dataclasses.replace(p, fold=p.fold % 2) for p in manifest.pairs)
    )
    with pytest.raises(InputError, match="train"):
        split_by_patient(two, 0)


def test_the_same_slide_under_two_patients_is_a_leak(manifest):
    pairs = list(manifest.pairs)
    pairs[0] = dataclasses.replace(pairs[0], he_content_sha256=pairs[2].he_content_sha256)
    with pytest.raises(VerificationError, match="H&E slide .* stands in"):
        split_by_patient(dataclasses.replace(manifest, pairs=tuple(pairs)), 0)


def test_a_value_definition_that_a_marker_does_not_have_is_refused(manifest):
    with pytest.raises(ConfigError, match="intensities"):
        trained_markers(dataclasses.replace(manifest, markers=("her2",), value_definition="negative_ratio"))


@pytest.mark.parametrize(("folds", "side"), [((0,), "train"), ((0, 2, 3, 4), "validation")])
def test_a_marker_without_a_label_to_train_or_to_choose_by_is_refused(manifest, folds, side):
    """A network would read its starting value for it, whatever the slide."""
    pairs = tuple(dataclasses.replace(p, marker="er" if p.fold in folds else "ki67") for p in manifest.pairs)
    with pytest.raises(InputError, match=f"fold 0: no usable label of .*er for {side}"):
        split_by_patient(dataclasses.replace(manifest, markers=("er", "ki67"), pairs=pairs), 0)


def test_labels_that_are_all_the_same_are_told_before_training(manifest):
    assert equal_labels(manifest, split_by_patient(manifest, 0)) == []
    zero = dataclasses.replace(
        manifest,
        pairs=tuple(dataclasses.replace(p, positive=0, negative=p.positive + p.negative) for p in manifest.pairs),
    )
    (sentence,) = equal_labels(zero, split_by_patient(zero, 0))
    assert "every label is the same: 0 %" in sentence
    full = dataclasses.replace(manifest, pairs=tuple(dataclasses.replace(p, negative=0) for p in manifest.pairs))
    assert "100 %" in equal_labels(full, split_by_patient(full, 0))[0]
