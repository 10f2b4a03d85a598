"""Folds of patients or whole sites, the same every time; and the same tissue on two sides."""

import dataclasses
import json

import cv2
import numpy as np
import pytest

from tests.fixtures.records import encode_jpeg, tiny_records, tiny_tile
from virtual_stain.cli.main import _run
from virtual_stain.dataset.folds import plan_folds, read_sites
from virtual_stain.dataset.split import recorded_split, require_no_shared_tissue, split_by_patient
from virtual_stain.errors import ConfigError, InputError, VerificationError
from virtual_stain.files import sha256_file
from virtual_stain.records.duplicates import TissueIndex, known_duplicates, picture_codes
from virtual_stain.records.manifest import read_manifest
from virtual_stain.records.read import iterate_shard
from virtual_stain.records.write import write_shards


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return tiny_records(tmp_path_factory.mktemp("r"), patients=12, pairs_per_patient=2, tiles_per_pair=2, tile_px=32)


def test_the_manifests_folds_are_the_ones_that_count(manifest):
    plan = plan_folds(manifest)
    assert plan.folds == manifest.folds()
    assert plan.apply(manifest) == manifest


def test_another_number_of_folds_is_balanced_whole_and_the_same_again(manifest):
    plan = plan_folds(manifest, 4)
    assert plan == plan_folds(manifest, 4)
    assert sorted(np.bincount(list(plan.folds.values()))) == [3, 3, 3, 3]
    again = plan.apply(manifest)
    assert again.n_folds == 4
    for fold in range(4):
        split = split_by_patient(again, fold)
        sides = split.patients()
        assert not set(sides["test"]) & (set(sides["train"]) | set(sides["validation"]))


def test_a_site_is_never_torn(manifest):
    sites = {p.pair: f"site {int(p.pair[4:6]) % 5}" for p in manifest.pairs}
    plan = plan_folds(manifest, 3, sites)
    assert plan.grouped
    for site in set(sites.values()):
        assert len({plan.folds[p.patient_id] for p in manifest.pairs if sites[p.pair] == site}) == 1
    # a patient who was scanned at two sites joins them
    moved = sites | {manifest.pairs[0].pair: "site 1"}
    joined = plan_folds(manifest, 3, moved)
    a, *rest = manifest.pairs
    b = next(p for p in rest if moved[p.pair] == "site 1")
    assert joined.folds[a.patient_id] == joined.folds[b.patient_id]


def test_too_few_folds_sites_or_patients_are_refused(manifest):
    with pytest.raises(ConfigError, match="at least 3 folds"):
        plan_folds(manifest, 2)
    with pytest.raises(InputError, match=r"at least 3 sites.*Received: 2"):
        plan_folds(manifest, 3, {p.pair: (p.pair[-3] in "02468" and "a") or "b" for p in manifest.pairs})
    with pytest.raises(InputError, match="at least 13 patients"):
        plan_folds(manifest, 13)


def test_bad_rows_of_the_sites_are_all_told(manifest, tmp_path):
    path = tmp_path / "sites.csv"
    path.write_text("pair,site\ncase00-0,a\ncase00-0,b\ncase01-0,\n", encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read_sites(path, manifest)
    assert "line 3: pair case00-0 stands at two sites" in str(caught.value)
    assert "line 4" in str(caught.value)
    assert "pair case11-1 has no site" in str(caught.value)
    path.write_text("pair;site\n", encoding="utf-8")
    with pytest.raises(InputError, match="pair,site"):
        read_sites(path, manifest)
    path.write_text("pair,site\n" + "".join(f"{p.pair},é\n" for p in manifest.pairs), encoding="utf-8-sig")
    assert set(read_sites(path, manifest).values()) == {"é"}


def test_spellings_of_a_site_are_one_site(manifest, tmp_path):
    """Two folds would each have tested on a lab that the other spelling had trained on."""
    path = tmp_path / "sites.csv"
    names = ["Lab A", "lab  a ", "LAB A", "lab b", "Lab B", "Lab C"]
    path.write_text("pair,site\n" + "".join(f"{p.pair},{names[i % 6]}\n" for i, p in enumerate(manifest.pairs)))
    assert set(read_sites(path, manifest).values()) == {"lab a", "lab b", "lab c"}


def test_a_share_of_the_patients_can_choose_the_checkpoint(manifest):
    split = split_by_patient(manifest, 0, 0.25)
    sides = split.patients()
    assert (len(sides["test"]), len(sides["validation"]), len(sides["train"])) == (4, 2, 6)
    assert split == split_by_patient(manifest, 0, 0.25)
    assert recorded_split(manifest, 0, sides) == split
    with pytest.raises(VerificationError, match="stands on no side of the run"):
        recorded_split(manifest, 0, {"train": [], "validation": [], "test": []})


def picture(seed):
    rng = np.random.default_rng(seed)
    return tiny_tile(rng, 128, rng.uniform(4, 124, (40, 2)), 0.3)


def close(a, b):
    return min(bin(int(a[0]) ^ int(other)).count("1") for other in b)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t,
        lambda t: t[:, ::-1],
        lambda t: np.rot90(t),
        lambda t: np.rot90(t[:, ::-1], 3),
        lambda t: np.clip(t.astype(int) - 12, 0, 255).astype(np.uint8),
        lambda t: cv2.GaussianBlur(t, (0, 0), 0.8),
    ],
)
def test_the_same_tissue_has_the_same_hash_however_it_lies(change):
    own = picture_codes(encode_jpeg(picture(1)))
    other = picture_codes(cv2.imencode(".jpg", np.ascontiguousarray(change(picture(1)))[..., ::-1])[1].tobytes())
    assert close(own, other) <= 6
    assert close(own, picture_codes(encode_jpeg(picture(2)))) > 12
    assert picture_codes(encode_jpeg(np.full((128, 128, 3), 230, np.uint8))) is None


def test_two_patients_with_the_same_tissue_are_named():
    index = TissueIndex()
    for tile in range(10):
        index.add("a", "patient 1", 1.0, encode_jpeg(picture(tile)))
        index.add("a again", "patient 1", 1.0, encode_jpeg(picture(tile)))
        upside_down = np.ascontiguousarray(picture(tile if tile < 4 else 50 + tile)[::-1])
        index.add("b", "patient 2", 1.0, encode_jpeg(upside_down))
        index.add("c", "patient 3", 1.0, encode_jpeg(picture(tile if tile < 2 else 100 + tile)))
    found = {(d.pair, d.other): d.n_tiles for d in index.duplicates()}
    assert found == {("a", "b"): 4, ("a again", "b"): 4}
    assert TissueIndex().duplicates() == []


def test_verify_reports_shared_tissue_and_training_refuses_it(tmp_path, capsys):
    manifest = tiny_records(tmp_path, patients=3, tiles_per_pair=6, tile_px=64, window_um=19.2, few_cells_every=0)
    first, second = manifest.pairs[:2]
    tiles = [
        {**mine, "image/encoded": theirs["image/encoded"], "tile/tissue_fraction": 1.0}
        for mine, theirs in zip(*(iterate_shard(tmp_path / p.shards[0].file) for p in (second, first)), strict=True)
    ]
    originals = [r | {"tile/tissue_fraction": 1.0} for r in iterate_shard(tmp_path / first.shards[0].file)]
    pairs = [
        dataclasses.replace(p, shards=write_shards(tmp_path, p.pair, records, shard_bytes=10**8))
        for p, records in ((first, originals), (second, tiles))
    ]
    from virtual_stain.records.manifest import write_manifest

    write_manifest(tmp_path, dataclasses.replace(manifest, pairs=(*pairs, manifest.pairs[2])))
    assert known_duplicates(tmp_path, sha256_file(tmp_path / "manifest.json")) is None, "nobody has looked"
    assert _run(["records", "verify", str(tmp_path), "-q"]) == 0
    said = f"pairs {first.pair} and {second.pair}, of two patients, show the same tissue (6 tiles"
    assert said in capsys.readouterr().err
    found = known_duplicates(tmp_path, sha256_file(tmp_path / "manifest.json"))
    assert [d["n_tiles"] for d in found] == [6]
    split = split_by_patient(read_manifest(tmp_path), 0)
    with pytest.raises(VerificationError, match="6 tiles look alike"):
        require_no_shared_tissue(tmp_path, split, found)
    require_no_shared_tissue(tmp_path, split, None)
    assert known_duplicates(tmp_path, "0" * 64) is None, "of other records"
    small = ["--set", "model.crop_px=32", "--set", "model.kind=small_cnn"]
    assert _run(["fit", str(tmp_path), "--out", str(tmp_path / "run"), *small]) == 3
    assert json.loads((tmp_path / "duplicates.json").read_text())["duplicates"]
