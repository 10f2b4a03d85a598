"""registration.json and registration.h5: the same registration back, or a refusal."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.fixtures.registration import plain_registration, toy_transform
from virtual_stain.errors import InputError, OutputError, VerificationError
from virtual_stain.files import sha256_file
from virtual_stain.registration.result import Registration, Verdict
from virtual_stain.registration.store import H5_NAME, JSON_NAME, read_registration, write_registration

POINTS = np.array([[10.0, 20.0], [250.5, 210.25], [480.0, 400.0]])


def written(folder: Path, elastic_px: float = 3.0) -> Registration:
    registration = plain_registration(toy_transform(40, elastic_px=elastic_px))
    write_registration(registration, folder)
    return registration


@pytest.mark.parametrize("name", [".", JSON_NAME, H5_NAME])
def test_folder_or_either_file_gives_the_same_back(tmp_path: Path, name: str) -> None:
    before = written(tmp_path)
    after = read_registration(tmp_path / name)
    assert np.array_equal(after.transform.to_ihc(POINTS), before.transform.to_ihc(POINTS))
    assert after.verdict is Verdict.ACCEPT
    assert (after.he, after.ihc) != (before.ihc, before.he)
    assert after.he.mpp == before.he.mpp
    assert after.he.bounds == before.he.bounds
    assert after.he.content_sha256 == before.he.content_sha256
    for a, b in zip(after.error_at_um(POINTS), before.error_at_um(POINTS), strict=True):
        assert np.array_equal(a, b)


def test_h5_alone_is_whole(tmp_path: Path) -> None:
    before = written(tmp_path)
    (tmp_path / JSON_NAME).unlink()
    assert np.array_equal(read_registration(tmp_path).transform.to_ihc(POINTS), before.transform.to_ihc(POINTS))


def test_json_alone_is_refused_where_a_local_part_was_recorded(tmp_path: Path) -> None:
    written(tmp_path)
    (tmp_path / H5_NAME).unlink()
    with pytest.raises(InputError, match="local displacement") as caught:
        read_registration(tmp_path / JSON_NAME)
    assert caught.value.exit_code == 3


def test_json_alone_serves_where_the_affine_is_all(tmp_path: Path) -> None:
    before = written(tmp_path, elastic_px=0.0)
    (tmp_path / H5_NAME).unlink()
    after = read_registration(tmp_path)
    assert np.array_equal(after.transform.to_ihc(POINTS), before.transform.to_ihc(POINTS))
    # no windows, so nothing is known about single places: infinite, never a guess
    assert np.isinf(after.error_at_um(POINTS)[0]).all()


def test_json_holds_what_scripts_read(tmp_path: Path) -> None:
    before = written(tmp_path)
    document = json.loads((tmp_path / JSON_NAME).read_text(encoding="utf-8"))
    assert np.array_equal(document["ihc_from_he"], before.transform.ihc_from_he.matrix)
    assert document["verdict"] == "accept"
    assert document["error_median_um"] == before.error_median_um
    assert document["he"]["mpp"] == {"x": 4.0, "y": 4.0, "origin": "override"}
    assert document["registration_h5_sha256"] == sha256_file(tmp_path / H5_NAME)


def test_h5_of_another_run_is_noticed(tmp_path: Path) -> None:
    written(tmp_path)
    other = plain_registration(toy_transform(41, elastic_px=3.0))
    write_registration(other, tmp_path / "other")
    (tmp_path / "other" / H5_NAME).replace(tmp_path / H5_NAME)
    for name in (JSON_NAME, H5_NAME):
        with pytest.raises(VerificationError, match="sha256"):
            read_registration(tmp_path / name)


def test_same_registration_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        written(tmp_path / name)
    for file in (JSON_NAME, H5_NAME):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


@pytest.mark.parametrize(
    ("name", "content"),
    [(JSON_NAME, b"{}"), (JSON_NAME, b"not json"), (H5_NAME, b"not hdf5"), (JSON_NAME, b'{"kind": "other"}')],
)
def test_garbage_is_refused_with_its_name(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=name):
        read_registration(tmp_path / name)


def test_foreign_h5_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["a"] = 1
    with pytest.raises(InputError, match=r"x\.h5"):
        read_registration(tmp_path / "x.h5")


def test_newer_schema_is_refused(tmp_path: Path) -> None:
    written(tmp_path, elastic_px=0.0)
    path = tmp_path / JSON_NAME
    path.write_text(path.read_text(encoding="utf-8").replace('"schema_version": 5', '"schema_version": 6'))
    with pytest.raises(InputError, match="schema version 5"):
        read_registration(path)


def test_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such registration"):
        read_registration(tmp_path / "nowhere")


def test_unwritable_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError):
        write_registration(plain_registration(toy_transform(0)), tmp_path / "file" / "below")


def test_error_grows_where_windows_are_not_recognised() -> None:
    """A fragment that lies elsewhere must not inherit the good error of the rest."""
    evidence = plain_registration(toy_transform(0)).evidence
    x, y = np.meshgrid(np.arange(8) * 100.0 + 50, np.arange(6) * 100.0 + 50)
    centres = np.stack([x.ravel(), y.ravel()], axis=1)
    good = np.where(np.arange(48) % 7 == 3, 0.01, 0.95)  # here and there one is not recognised
    torn = np.where(centres[:, 0] > 500, 0.01, good)  # the right third lies elsewhere
    whole, parted = (
        dataclasses.replace(
            evidence,
            centres_px0=centres,
            distances=np.full(48, 6.0),
            usual=np.full(48, 6.0),
            height=good,
            trust=trust,
            apart=np.zeros(48),
        )
        for trust in (good, torn)
    )
    there, far = np.array([[700.0, 300.0]]), np.array([[120.0, 300.0], [3000.0, 300.0]])
    assert np.isinf(parted.errors_at(there)[1]).all()
    assert np.isfinite(whole.errors_at(there)[1]).all()
    assert parted.errors_at(far)[1][0] < 1.1 * whole.errors_at(far)[1][0]
    median, p95 = whole.errors_at(far)
    assert median[1] > 20  # beyond all windows: growing with the distance
    assert (p95 > median).all()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("verdict", "review"),
        ("error_p95_um", 0.5),
        ("ihc_from_he", [[2.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 1.0]]),
        ("flags", ["manual"]),
    ],
)
def test_a_value_changed_in_the_json_alone_is_refused(tmp_path: Path, name: str, value: object) -> None:
    written(tmp_path)
    path = tmp_path / JSON_NAME
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | {name: value}), encoding="utf-8")
    for given in (path, tmp_path / H5_NAME, tmp_path):
        with pytest.raises(VerificationError, match=name):
            read_registration(given)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ihc_from_he", [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0]]),
        ("ihc_from_he", [[2.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 1.0]]),
        ("ihc_from_he", [1, 2]),
        ("error_median_um", 1e9),
        ("error_median_um", "3"),
        ("overlap_fraction", 2.0),
        ("verdict", "perfect"),
        ("he", None),
        ("flags", None),
    ],
)
def test_values_that_cannot_be_are_refused(tmp_path: Path, name: str, value: object) -> None:
    written(tmp_path, elastic_px=0.0)
    (tmp_path / H5_NAME).unlink()
    path = tmp_path / JSON_NAME
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | {name: value}), encoding="utf-8")
    with pytest.raises(InputError):
        read_registration(path)


def test_what_is_odd_about_a_slide_stands_in_the_file(tmp_path: Path) -> None:
    """A pixel size that was implausible was said on the terminal and nowhere else."""
    registration = plain_registration(toy_transform(40))
    odd = dataclasses.replace(registration.he, warnings=("pixel size: 25 µm/px is implausible",))
    write_registration(dataclasses.replace(registration, he=odd), tmp_path)
    assert json.loads((tmp_path / JSON_NAME).read_text(encoding="utf-8"))["he"]["warnings"] == list(odd.warnings)
    after = read_registration(tmp_path)
    assert (after.he.warnings, after.ihc.warnings) == (odd.warnings, ())
