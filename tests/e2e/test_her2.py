"""HER2 the whole way: classes of the labels against the truth; training, evaluation, export, score, panel."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import jsonschema_rs
import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner

from tests.fixtures.phantoms import tiny_pair
from tests.fixtures.records import tiny_records
from tests.fixtures.slides import write_tiled_tiff
from tests.fixtures.training import TINY
from virtual_stain.cli.main import _run, main
from virtual_stain.evaluation.predict import predict_tiles
from virtual_stain.exporting.bundle import verify_bundle
from virtual_stain.her2 import her2_score
from virtual_stain.markers import Marker
from virtual_stain.records.manifest import read_manifest, shard_paths
from virtual_stain.records.read import iterate_shard, parse_example
from virtual_stain.scoring.local import LocalPredictor
from virtual_stain.training.run_dir import load_run

ROOT = Path(__file__).parents[2]
SETS = [part for text in TINY for part in ("--set", text)]
CLASSES = Marker.HER2.intensity_outputs


@pytest.fixture(scope="module", autouse=True)
def _patient_key(tmp_path_factory: pytest.TempPathFactory):
    key = tmp_path_factory.mktemp("key") / "patient.key"
    key.write_text("0123456789abcdef0123456789abcdef")
    key.chmod(0o600)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VSTAIN_PATIENT_KEY", str(key))
        yield


def test_labels_hold_the_membrane_classes_of_the_truth(tmp_path: Path) -> None:
    pair = tiny_pair(tmp_path / "cohort", size_mm=0.75, marker="her2")
    table = tmp_path / "pairs.csv"
    table.write_text(f"pair,patient,marker,he,ihc\n{pair.pair},P,her2,{pair.he},{pair.ihc}\n")
    out = tmp_path / "records"
    assert _run(["build-records", str(table), "--out", str(out), "--accept-unreviewed", "-q"]) == 0
    assert _run(["records", "verify", str(out), "-q"]) == 0
    nuclei, places = pair.truth.ihc_nuclei, pair.truth.ihc_he_px0
    gaps = []
    for record in (r for p in shard_paths(out, read_manifest(out).pairs) for r in iterate_shard(p)):
        if not record["label/weight"]:
            continue
        low = np.array([record["tile/x_px0"], record["tile/y_px0"]])
        high = low + np.array([record["tile/width_px0"], record["tile/height_px0"]])
        inside = ((places >= low) & (places < high)).all(axis=1) & nuclei.tumour
        true = np.bincount(nuclei.intensity[inside], minlength=4) / inside.sum()
        gaps.append(np.bincount(record["cells/intensity"], minlength=4) / len(record["cells/x"]) - true)
    assert len(gaps) >= 4
    assert np.abs(np.mean(gaps, axis=0)).max() < 0.04
    assert np.abs(gaps).max() < 0.12


def test_another_value_definition_is_refused_before_any_work(tmp_path: Path) -> None:
    for name in ("he.png", "ihc.png"):
        (tmp_path / name).write_bytes(name.encode())
    table = tmp_path / "pairs.csv"
    table.write_text("pair,patient,marker,he,ihc\na,P,her2,he.png,ihc.png\n")
    words = [
        "build-records",
        str(table),
        "--out",
        str(tmp_path / "o"),
        "--set",
        "counting.value_definition=positive_count",
    ]
    assert _run(words) == 2
    assert not (tmp_path / "o").exists()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with records, run and model."""
    folder = tmp_path_factory.mktemp("her2")
    tiny_records(folder / "records", tile_px=64, window_um=19.2, marker="her2")
    assert _run(["fit", str(folder / "records"), "--out", str(folder / "run"), "-q", *SETS]) == 0
    assert _run(["evaluate", str(folder / "run"), "-q"]) == 0
    assert _run(["export", str(folder / "run"), "--out", str(folder / "model"), "-q"]) == 0
    return folder


def _first_pair(folder: Path):
    return read_manifest(folder / "records").pairs[0]


def _tiles(folder: Path) -> np.ndarray:
    data = tf.data.TFRecordDataset([str(p) for p in shard_paths(folder / "records", [_first_pair(folder)])])
    encoded = [parse_example(d)["image/encoded"].numpy() for d in data]
    return np.stack([tf.io.decode_jpeg(j, dct_method="INTEGER_ACCURATE").numpy() for j in encoded])


def test_the_evaluation_compares_shares_and_scores(trained: Path) -> None:
    value = json.loads((trained / "run" / "evaluation.json").read_text())
    found = value["markers"]["her2"]["classes"]
    slides = value["markers"]["her2"]["slides"]
    assert [s["pair"] for s in found["slides"]] == [s["pair"] for s in slides]
    for classes, slide in zip(found["slides"], slides, strict=True):
        for side, ratio in (("read", slide["read_global_ratio"]), ("counted", slide["true_ratio"])):
            shares = list(classes[side]["fractions"].values())
            assert sum(shares) == pytest.approx(1, abs=1e-5)
            assert 1 - shares[0] == pytest.approx(ratio, abs=1e-5), "1+ to 3+ are the stained cells"
            assert classes[side]["score"] == her2_score(tuple(shares))
    assert np.sum(found["score_agreement"]["counted_by_read"]) == found["score_agreement"]["n"] == len(slides)
    assert set(found["tiles"]["mae"]) == {"0", "1+", "2+", "3+"}
    rows = list(csv.DictReader((trained / "run" / "predictions.csv").read_text().splitlines()))
    shares = np.array([[float(r[f"class_{g}"]) for g in (1, 2, 3)] for r in rows])
    np.testing.assert_allclose(shares.sum(axis=1), [float(r["ratio"]) for r in rows], atol=1e-5)
    counted = np.array([[int(r[f"label_class_{g}"]) for g in (1, 2, 3)] for r in rows])
    assert counted.sum(axis=1).tolist() == [int(r["label_positive"]) for r in rows]
    assert "Intensities" in (trained / "run" / "evaluation.html").read_text()


def test_the_bundle_reads_classes_as_the_evaluation_did(trained: Path) -> None:
    bundle = verify_bundle(trained / "model")
    assert bundle.card.outputs == Marker.HER2.outputs
    assert bundle.card.training["evaluation"]["markers"]["her2"]["classes"]["score_agreement"]["n"] == 2
    table = predict_tiles(load_run(trained / "run"), trained / "records", [_first_pair(trained)])
    answers = LocalPredictor(trained / "model").predict(_tiles(trained))
    for i, name in enumerate(CLASSES):
        np.testing.assert_allclose(np.sort(answers[name]), np.sort(table.intensity_shares[:, i]), atol=1e-5)


def test_openvino_reads_each_class_as_tensorflow_does(trained: Path) -> None:
    pytest.importorskip("openvino")
    from virtual_stain.config import ScoringSettings
    from virtual_stain.scoring.openvino_engine import OpenVinoPredictor

    fast = OpenVinoPredictor(trained / "model", ScoringSettings(precision="float32"))
    try:
        a, b = LocalPredictor(trained / "model").predict(_tiles(trained)), fast.predict(_tiles(trained))
    finally:
        fast.close()
    assert list(b) == sorted(Marker.HER2.outputs)
    for name in Marker.HER2.outputs:
        np.testing.assert_allclose(a[name], b[name], rtol=2e-4, atol=2e-5)


def test_a_slide_gets_a_score_and_the_panel_takes_it(trained: Path, tmp_path: Path) -> None:
    tiles = _tiles(trained)[:6]
    frame = np.full((64 * 4, 64 * 5, 3), 245, np.uint8)
    for i, tile in enumerate(tiles):
        y, x = 64 * (1 + i // 3), 64 * (1 + i % 3)
        frame[y : y + 64, x : x + 64] = tile
    path, out = write_tiled_tiff(tmp_path / "slide.tiff", frame, 0.3), tmp_path / "scores"
    words = ["score", str(path), "--model", str(trained / "model"), "--out", str(out)]
    done = CliRunner().invoke(
        main, [*words, "--set", "tissue.overview_mpp=2", "--set", "tissue.min_area_um2=100"], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    report = json.loads((out / "slide.report.json").read_text())
    schema = ROOT / "virtual_stain" / "report" / "schemas" / "report.v1.schema.json"
    jsonschema_rs.validate(json.loads(schema.read_text()), report)
    reading = report["readings"]["her2"]
    shares = list(reading["her2"]["fractions"].values())
    assert 1 - shares[0] == pytest.approx(reading["global_ratio"], abs=1e-5)
    assert reading["her2"]["score"] == her2_score(tuple(shares))
    assert f"score {reading['her2']['score']}" in done.output
    rows = [r for r in csv.DictReader((out / "slide.tiles.csv").read_text().splitlines()) if r["used"] == "1"]
    cells = np.array([float(r["her2_tumour_cells"]) for r in rows])
    for name, share in zip(CLASSES, shares[1:], strict=True):
        assert np.average([float(r[name]) for r in rows], weights=cells) == pytest.approx(share, abs=1e-4)
    measured = json.loads((out / "slide.geojson").read_text())["features"][0]["properties"]["measurements"]
    assert set(Marker.HER2.outputs) <= set(measured)

    assert _run(["panel", str(out / "slide.report.json"), "--out", str(tmp_path / "panel"), "-q"]) == 0
    panel = json.loads((tmp_path / "panel" / "panel.json").read_text())
    assert panel["evidence"]["her2"]["score"] == reading["her2"]["score"]
    assert panel["evidence"]["her2"]["value"] is None, "a share is no score"
    finding = panel["findings"]["her2-asco-cap-2018"]
    expected = {"0": "HER2 negative", "1+": "HER2 negative", "2+": "indeterminate", "3+": "HER2 positive"}
    assert finding["class"] == expected[reading["her2"]["score"]]
