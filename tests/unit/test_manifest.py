from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path

import pytest

from tests.fixtures.records import tiny_records
from virtual_stain.errors import InputError, OutputError, VerificationError
from virtual_stain.records.manifest import Manifest, read_manifest, shard_paths, write_manifest
from virtual_stain.records.verify import require_scale, verify_records


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("records")
    tiny_records(path, patients=3, tiles_per_pair=2, tile_px=32)
    return path


@pytest.fixture(scope="module")
def manifest(folder: Path) -> Manifest:
    return read_manifest(folder)


def test_round_trip_is_byte_equal(folder: Path, manifest: Manifest, tmp_path: Path) -> None:
    write_manifest(tmp_path, manifest)
    assert (tmp_path / "manifest.json").read_bytes() == (folder / "manifest.json").read_bytes()
    assert read_manifest(tmp_path) == manifest


def test_folds_choose_pairs_and_their_shards(folder: Path, manifest: Manifest) -> None:
    chosen = manifest.pairs_in([1])
    assert [p.pair for p in chosen] == ["case01-0"]
    assert shard_paths(folder, chosen) == [folder / "case01-0-00000-of-00001.tfrecord"]


def test_a_patient_in_two_folds_is_refused_on_writing_and_on_reading(manifest: Manifest, tmp_path: Path) -> None:
    first, second, third = manifest.pairs
    leak = dataclasses.replace(manifest, pairs=(first, dataclasses.replace(second, patient_id=first.patient_id), third))
    with pytest.raises(VerificationError, match="patient of pair case01-0 is in two folds"):
        write_manifest(tmp_path, leak)
    (tmp_path / "manifest.json").write_text(json.dumps(leak.to_dict()))
    with pytest.raises(VerificationError, match="two folds"):
        read_manifest(tmp_path)


def test_a_slide_under_two_patients_is_refused(manifest: Manifest, tmp_path: Path) -> None:
    first, second, third = manifest.pairs
    copied = dataclasses.replace(second, ihc_content_sha256=first.he_content_sha256)
    with pytest.raises(VerificationError, match="case01-0: one of its slides also stands under another patient"):
        write_manifest(tmp_path, dataclasses.replace(manifest, pairs=(first, copied, third)))


@pytest.mark.parametrize("name", ["../a.tfrecord", "/etc/passwd"])
def test_a_shard_outside_the_folder_is_refused(manifest: Manifest, tmp_path: Path, name: str) -> None:
    pair = manifest.pairs[0]
    bad = dataclasses.replace(pair, shards=(dataclasses.replace(pair.shards[0], file=name),))
    with pytest.raises(VerificationError, match="outside the folder"):
        write_manifest(tmp_path, dataclasses.replace(manifest, pairs=(bad,)))


def test_a_folder_without_manifest_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="build-records"):
        read_manifest(tmp_path)


def test_another_schema_version_is_refused(manifest: Manifest, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps(manifest.to_dict() | {"schema_version": 99}))
    with pytest.raises(InputError, match=r"expected schema_version 1\. Received: 99"):
        read_manifest(tmp_path)


def test_a_missing_or_unknown_key_is_named(manifest: Manifest, tmp_path: Path) -> None:
    value = manifest.to_dict()
    del value["n_folds"]
    (tmp_path / "manifest.json").write_text(json.dumps(value | {"extra": 1}))
    with pytest.raises(InputError, match=r"missing keys \['n_folds'\], unknown keys \['extra'\]"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"tiling": {"window_um": 0.0}},
        {"tiling": {"window_um": -1.0}},
        {"tiling": {"stride_um": 1e9}},
        {"tiling": {"tile_px": 0}},
        {"n_folds": 10**12},
        {"n_folds": 0},
        {"markers": []},
        {"markers": ["../x"]},
        {"markers": ["ki67", "ki67"]},
        {"markers": ["ki67", "er"]},
        {"value_definition": "mean"},
        {"min_tumour_cells": -1},
        {"pairs": {"n_ratio": 99}},
        {"pairs": {"positive": -1}},
        {"pairs": {"patient_id": "Ann"}},
        {"pairs": {"marker": "p53"}},
    ],
    ids=lambda change: json.dumps(change),
)
def test_verify_believed_any_value_of_the_manifest(manifest: Manifest, tmp_path: Path, change: dict) -> None:
    """A window of 0, a trillion folds, no marker: "everything fits"."""
    value = manifest.to_dict()
    value = json.loads(json.dumps(value))
    for key, new in change.items():
        if key == "tiling":
            value[key] |= new
        elif key == "pairs":
            value[key][0] |= new
        else:
            value[key] = new
    (tmp_path / "manifest.json").write_text(json.dumps(value))
    with pytest.raises(InputError):
        read_manifest(tmp_path)


def test_records_at_twice_their_scale_were_trained_and_scored(folder: Path, manifest: Manifest, tmp_path: Path) -> None:
    copy = tmp_path / "records"
    shutil.copytree(folder, copy)
    value = json.loads((copy / "manifest.json").read_text())
    value["tiling"] |= {"window_um": 2 * manifest.tiling.window_um, "stride_um": 2 * manifest.tiling.stride_um}
    (copy / "manifest.json").write_text(json.dumps(value))
    with pytest.raises(VerificationError, match="tile/mpp: expected"):
        verify_records(copy)
    with pytest.raises(VerificationError, match=r"tile/mpp: expected .* Received"):
        require_scale(copy, read_manifest(copy), read_manifest(copy).pairs)
    require_scale(folder, manifest, manifest.pairs)


def test_a_full_disk_keeps_the_older_manifest_and_nothing_is_put_in_place(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_manifest(tmp_path, manifest)
    before = (tmp_path / "manifest.json").read_bytes()
    placed: list[str] = []

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="the disk is full"):
        write_manifest(tmp_path, manifest, just_before=lambda: placed.append("shards"))
    assert placed == []
    assert (tmp_path / "manifest.json").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["manifest.json"]
