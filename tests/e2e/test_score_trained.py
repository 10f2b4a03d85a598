"""A trained run, exported and scored with: what training saw is what scoring sees."""

import json

import numpy as np
import pytest
import tensorflow as tf

from tests.fixtures.slides import write_tiled_tiff
from tests.fixtures.training import tiny_run
from virtual_stain.cli.main import _run
from virtual_stain.evaluation.predict import predict_tiles
from virtual_stain.exporting.bundle import verify_bundle
from virtual_stain.records.manifest import read_manifest, shard_paths
from virtual_stain.records.read import parse_example
from virtual_stain.training.run_dir import load_run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    records, run = tiny_run(folder)
    assert _run(["export", str(run), "--out", str(folder / "model"), "-q"]) == 0
    return records, run, folder / "model"


def stored_tiles(records, pair):
    data = tf.data.TFRecordDataset([str(p) for p in shard_paths(records, [pair])])
    return [parse_example(record)["image/encoded"].numpy() for record in data]


def test_the_bundle_reads_stored_tiles_as_the_evaluation_did(trained):
    records, run, model = trained
    manifest = read_manifest(records)
    pair = manifest.pairs[0]
    table = predict_tiles(load_run(run), records, [pair])
    served = tf.saved_model.load(str(verify_bundle(model).folder)).signatures["serving_default"]
    answer = served(image_bytes=tf.constant(stored_tiles(records, pair)))
    np.testing.assert_allclose(np.sort(answer["ki67"].numpy()), np.sort(table.value), atol=1e-5)
    cells = answer["ki67_tumour_cells"].numpy()
    np.testing.assert_allclose(np.sort(cells), np.sort(table.expected_cells), rtol=1e-4)


def test_a_slide_made_of_stored_tiles_is_scored_as_the_tiles(trained, tmp_path):
    """The same pixels on a slide, through tissue, grid and windows: the same numbers as the tiles alone."""
    records, _, model = trained
    jpegs = stored_tiles(records, read_manifest(records).pairs[0])[:6]
    tiles = [tf.io.decode_jpeg(j, dct_method="INTEGER_ACCURATE").numpy() for j in jpegs]
    frame = np.full((64 * 4, 64 * 5, 3), 245, np.uint8)
    for i, tile in enumerate(tiles):
        col, row = 1 + i % 3, 1 + i // 3
        frame[row * 64 : row * 64 + 64, col * 64 : col * 64 + 64] = tile
    path = write_tiled_tiff(tmp_path / "slide.tiff", frame, 0.3)
    arguments = ["score", str(path), "--model", str(model), "--out", str(tmp_path / "o"), "-q"]
    assert _run([*arguments, "--set", "tissue.overview_mpp=2", "--set", "tissue.min_area_um2=100"]) == 0
    served = tf.saved_model.load(str(verify_bundle(model).folder)).signatures["uint8"]
    expected = served(tiles=tf.constant(np.stack(tiles)))["ki67"].numpy()
    lines = (tmp_path / "o" / "slide.tiles.csv").read_text().splitlines()[1:]
    rows = {(int(f[0]), int(f[1])): float(f[6]) for f in (line.split(",") for line in lines)}
    for i, value in enumerate(expected):
        assert rows[1 + i % 3, 1 + i // 3] == pytest.approx(value, abs=2e-4)
    report = json.loads((tmp_path / "o" / "slide.report.json").read_text())
    assert report["model"]["name"] == "model"


def test_the_card_is_the_runs(trained):
    _, run, model = trained
    card, facts = verify_bundle(model).card, load_run(run).card
    assert card.tiling.tile_px == 64
    assert card.crop_px == facts["crop_px"]
    assert card.min_tumour_cells == facts["thresholds"]["min_tumour_cells"] == 10
    assert card.training["evaluation"] is None
    assert card.training["best_step"] == facts["training"]["best_step"]
