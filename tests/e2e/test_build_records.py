"""build-records on phantom slides: the whole way, against the truth."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.spatial import cKDTree

from tests.fixtures.built import NAME, Built
from virtual_stain.labels.store import TileStore
from virtual_stain.records.manifest import read_manifest, shard_paths
from virtual_stain.records.read import iterate_shard
from virtual_stain.records.verify import verify_records
from virtual_stain.registration.store import read_registration

pytestmark = pytest.mark.usefixtures("key_of_built")


def test_the_folder_verifies_and_says_what_is_in_it(built: Built) -> None:
    manifest = verify_records(built.out).manifest
    assert [p.pair for p in manifest.pairs] == [p.pair for p in built.cohort]
    assert [p.fold for p in manifest.pairs] == [0, 1]
    assert manifest.accept_unreviewed
    assert manifest.excluded == ()
    run = json.loads((built.out / "run.json").read_text())
    assert run["counts"]["records"] == manifest.n_records == run["counts"]["tiles_built"]
    assert [o["ok"] for o in run["outcomes"]] == [True, True]
    html = (built.out / "summary.html").read_text()
    assert "Built with <code>--accept-unreviewed</code>" in html
    assert html.count("data:image/jpeg") == 2


def test_labels_are_those_of_the_truth(built: Built) -> None:
    manifest = read_manifest(built.out)
    errors = []
    for pair, truth in zip(manifest.pairs, built.cohort, strict=True):
        with TileStore(built.out / "work" / pair.pair / "tiles.h5") as store:
            for tile in store.tiles():
                if tile.weight > 0:
                    true = truth.truth.counts_in(tile.box).ratio
                    assert true is not None
                    assert tile.counts.ratio is not None
                    errors.append(abs(tile.counts.ratio - true))
    assert len(errors) >= 6
    assert np.mean(errors) < 0.06


def test_cells_lie_where_they_were_counted(built: Built) -> None:
    """Back through the estimated transform: no pixel of the way from the IHC slide into the tile may be lost."""
    for pair in built.cohort:
        folder = built.out / "work" / pair.pair
        transform = read_registration(folder).transform
        nuclei = cKDTree(pair.truth.ihc_cells.xy * pair.truth.ihc_mpp)
        offsets = []
        with TileStore(folder / "tiles.h5") as store:
            for tile in store.tiles():
                scale = np.array([tile.box.width, tile.box.height]) / 1024
                he = tile.cells.xy * scale + (tile.box.x, tile.box.y)
                ihc_um = transform.to_ihc(he) * pair.truth.ihc_mpp
                distance, index = nuclei.query(ihc_um)
                offsets.append(np.where(distance[:, None] < 4, ihc_um - nuclei.data[index], np.nan))
        found = ~np.isnan(np.concatenate(offsets)[:, 0])
        assert found.mean() > 0.7
        assert np.abs(np.nanmean(np.concatenate(offsets), axis=0)).max() < 0.15  # µm: half a tile pixel


def test_records_hold_what_the_store_holds(built: Built) -> None:
    manifest = read_manifest(built.out)
    pair = manifest.pairs[0]
    records = [r for path in shard_paths(built.out, [pair]) for r in iterate_shard(path)]
    with TileStore(built.out / "work" / pair.pair / "tiles.h5") as store:
        for record, tile in zip(records, store.tiles(), strict=True):
            assert record["image/encoded"] == tile.he_jpeg
            assert (record["label/positive"], record["label/negative"]) == (tile.counts.positive, tile.counts.negative)
            assert record["label/id"] == tile.label_id
            assert record["label/weight"] == tile.weight
            assert record["review/verdict"] == "unreviewed"
    assert [(r["tile/row"], r["tile/col"]) for r in records] == sorted((r["tile/row"], r["tile/col"]) for r in records)


def test_no_output_holds_a_patient_or_a_path(built: Built) -> None:
    for path in built.out.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert NAME.split()[0].encode() not in data, path
            assert str(built.cohort[0].he.parent).encode() not in data, path
