"""PD-L1 the whole way: pairs, labels, a correction, training, evaluation, export, score, panel."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import jsonschema_rs
import pytest

from tests.fixtures.phantoms import TinyPair, tiny_cohort
from tests.fixtures.training import TINY
from tests.fixtures.web import client, review_of
from virtual_stain.cli.main import _run
from virtual_stain.config import CountingSettings, load_config
from virtual_stain.counting.stain import estimate_slide_stain
from virtual_stain.exporting.bundle import verify_bundle
from virtual_stain.labels.store import TileStore
from virtual_stain.markers import CellCounts, Marker
from virtual_stain.records.manifest import read_manifest, shard_paths
from virtual_stain.records.read import iterate_shard
from virtual_stain.slides.slide import SlideRef, open_slide
from virtual_stain.slides.tissue import find_tissue

ROOT = Path(__file__).parents[2]
SETS = ("tiling.tile_px=512", "labels.n_folds=3", *TINY, "model.crop_px=128", "model.min_expected_tumour_cells=1",
        "tissue.min_area_um2=1000", "training.max_steps=8")  # fmt: skip
WORDS = [part for text in SETS for part in ("--set", text)]


@dataclass(frozen=True)
class Way:
    """Three phantom pairs whose records are built without a look at them."""

    folder: Path
    cohort: list[TinyPair]

    @property
    def records(self) -> Path:
        return self.folder / "records"

    def build(self, *more: str) -> int:
        return _run(["build-records", str(self.folder / "pairs.csv"), "--out", str(self.records), *more, "-q", *WORDS])


@pytest.fixture(scope="module")
def way(tmp_path_factory: pytest.TempPathFactory) -> Way:
    folder = tmp_path_factory.mktemp("pdl1")
    cohort = tiny_cohort(folder / "cohort", pairs=3, jobs=2, size_mm=0.75, marker="pdl1")
    rows = [f"{p.pair},P{i},PDL1,{p.he},{p.ihc},{i}" for i, p in enumerate(cohort)]
    (folder / "pairs.csv").write_text("\n".join(["pair,patient,marker,he,ihc,fold", *rows]) + "\n")
    key = folder / "patient.key"
    key.write_text("0123456789abcdef0123456789abcdef")
    key.chmod(0o600)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VSTAIN_PATIENT_KEY", str(key))
        made = Way(folder, cohort)
        assert made.build("--accept-unreviewed", "--jobs", "2") == 0
    return made


@pytest.fixture(autouse=True)
def _patient_key(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VSTAIN_PATIENT_KEY", str(way.folder / "patient.key"))


def test_labels_are_the_share_of_tumour_cells_with_a_stained_membrane(way: Way) -> None:
    errors = []
    for pair in way.cohort:
        with TileStore(way.records / "work" / pair.pair / "tiles.h5") as store:
            for tile in store.tiles():
                true = pair.truth.counts_in(tile.box).ratio
                if tile.weight > 0:
                    assert true is not None
                    assert tile.counts.ratio is not None
                    errors.append(abs(tile.counts.ratio - true))
    assert len(errors) >= 9
    assert sum(errors) / len(errors) < 0.02
    assert max(errors) < 0.06


def test_the_stain_of_a_membrane_slide_was_estimated_as_of_a_nuclear_one(way: Way) -> None:
    """Nuclei beside brown membranes are then searched for in both stains, and their typical contrast is another."""
    pair = way.cohort[0]
    found = json.loads((way.records / "work" / pair.pair / "stain.json").read_text())
    with open_slide(SlideRef(pair.ihc)) as slide:
        tissue = find_tissue(slide, load_config(None, SETS).tissue)
        nuclear, membrane = (
            estimate_slide_stain(slide, tissue, CountingSettings(), membrane=value) for value in (False, True)
        )
    assert found["stain"] == json.loads(json.dumps(membrane.to_dict()))
    assert nuclear.typical_od != membrane.typical_od


def test_records_say_which_marker_and_verify(way: Way) -> None:
    assert _run(["records", "verify", str(way.records), "-q"]) == 0
    manifest = read_manifest(way.records)
    assert manifest.markers == ("pdl1",)
    records = [r for path in shard_paths(way.records, manifest.pairs) for r in iterate_shard(path)]
    assert {r["label/marker"] for r in records} == {"pdl1"}
    assert 0 < sum(r["label/positive"] for r in records) < sum(len(r["cells/x"]) for r in records)


def test_a_corrected_membrane_changes_the_tps_of_its_tile(way: Way) -> None:
    page = client(review_of(way.records))
    assert page.get("/api/review").json()["pairs"][0]["marker"] == "PD-L1"
    item = next(i for i in page.get("/api/review/queue").json()["items"] if i["weight"] > 0)
    place = f"{item['pair']}/{item['col']}/{item['row']}"
    tile = page.get(f"/api/review/tiles/{place}").json()
    assert tile["name"].count("positive") == item["positive"]
    body = {k: item[k] for k in ("pair", "col", "row", "label_id")} | {"reviewer": "Dr. A", "verdict": "accept"}
    body["correction"] = {"changed": [[tile["name"].index("negative"), "positive"]]}
    assert page.post("/api/review/decisions", json=body).status_code == 201
    assert way.build("--accept-unreviewed") == 0
    name = f"{item['pair']}/{item['col']}_{item['row']}"
    pairs = [p for p in read_manifest(way.records).pairs if p.pair == item["pair"]]
    records = {r["image/filename"]: r for path in shard_paths(way.records, pairs) for r in iterate_shard(path)}
    assert records[name]["label/positive"] == item["positive"] + 1
    assert records[name]["label/negative"] == item["negative"] - 1


@pytest.fixture(scope="module")
def model(way: Way) -> Path:
    run = way.folder / "run"
    assert _run(["fit", str(way.records), "--out", str(run), "-q", *WORDS]) == 0
    assert _run(["evaluate", str(run), "-q"]) == 0
    assert _run(["export", str(run), "--out", str(way.folder / "model"), "-q"]) == 0
    return way.folder / "model"


def test_the_evaluation_has_the_cut_offs_of_a_tps(way: Way, model: Path) -> None:
    figures = json.loads((way.folder / "run" / "evaluation.json").read_text())["markers"]["pdl1"]
    assert figures["slides"][0]["true_ratio"] == pytest.approx(_true_tps_of_tiles(way, way.cohort[0]), abs=0.02)
    assert [row["higher"] for row in figures["slide_agreement"]["cut_offs"]] == ["≥ 1 %", "≥ 50 %"]
    assert verify_bundle(model).card.markers == (Marker.PDL1,)


def _true_tps_of_tiles(way: Way, pair: TinyPair) -> float | None:
    """Over the tiles whose count is a label, as the evaluation counts."""
    with TileStore(way.records / "work" / pair.pair / "tiles.h5") as store:
        return sum((pair.truth.counts_in(t.box) for t in store.tiles() if t.usable_count), CellCounts(0, 0)).ratio


def test_a_slide_is_scored_and_its_tps_stands_on_the_panel(way: Way, model: Path) -> None:
    he, out = way.cohort[0].he, way.folder / "scores"
    assert _run(["score", str(he), "--model", str(model), "--out", str(out), "-q", *WORDS[-4:-2]]) == 0
    report = json.loads((out / f"{he.stem}.report.json").read_text())
    schema = ROOT / "virtual_stain" / "report" / "schemas" / "report.v1.schema.json"
    jsonschema_rs.validate(json.loads(schema.read_text()), report)
    reading = report["readings"]["pdl1"]["global_ratio"]
    assert 0 < reading < 1
    rows = list(csv.DictReader((out / f"{he.stem}.tiles.csv").read_text().splitlines()))
    used = [(float(r["pdl1"]), float(r["pdl1_tumour_cells"])) for r in rows if r["used"] == "1"]
    assert sum(p * n for p, n in used) / sum(n for _, n in used) == pytest.approx(reading, abs=1e-4)
    assert "PD-L1" in (out / f"{he.stem}.report.html").read_text()
    assert _run(["panel", str(out / f"{he.stem}.report.json"), "--out", str(way.folder / "panel"), "-q"]) == 0
    panel = json.loads((way.folder / "panel" / "panel.json").read_text())
    assert panel["evidence"]["pdl1"]["value"] == reading
    expected = "TPS below 1 %" if reading < 0.01 else "TPS 1 to 49 %" if reading < 0.5 else "TPS 50 % or more"
    assert panel["findings"]["pdl1-tps-22c3"]["class"] == expected


def test_a_model_of_counts_goes_the_same_way_and_no_rule_takes_it(way: Way) -> None:
    """The same tiles under another value definition: cells per mm² from the records to the report; no panel."""
    he, out, run = way.cohort[0].he, way.folder / "densities", way.folder / "counts"
    records = way.folder / "counted-records"
    shutil.copytree(way.records, records)
    words = [*WORDS, "--set", "counting.value_definition=positive_count"]
    pairs = str(way.folder / "pairs.csv")
    assert _run(["build-records", pairs, "--out", str(records), "--accept-unreviewed", "-q", *words]) == 0
    assert _run(["fit", str(records), "--out", str(run), "-q", *words]) == 0
    assert _run(["evaluate", str(run), "-q"]) == 0
    assert _run(["evaluate", str(run), str(way.records), "--out", str(way.folder / "x"), "-q"]) == 3, "of other values"
    assert _run(["export", str(run), "--out", str(way.folder / "counter"), "-q"]) == 0
    assert _run(["score", str(he), "--model", str(way.folder / "counter"), "--out", str(out), "-q", *WORDS[-4:-2]]) == 0
    report = json.loads((out / f"{he.stem}.report.json").read_text())
    reading = report["readings"]["pdl1"]
    assert (reading["value_definition"], reading["unit"]) == ("positive_count", "cells/mm2")
    rows = list(csv.DictReader((out / f"{he.stem}.tiles.csv").read_text().splitlines()))
    used = [(float(r["pdl1_positive_count"]), float(r["tissue_fraction"])) for r in rows if r["used"] == "1"]
    expected = sum(v * t for v, t in used) / sum(t for _, t in used)
    assert expected == pytest.approx(reading["global_ratio"], rel=1e-3)
    assert reading["global_ratio"] > 10, "cells per mm², not a fraction"
    assert "PD-L1-positive predicted from H&amp;E" in (out / f"{he.stem}.report.html").read_text()
    assert _run(["panel", str(out / f"{he.stem}.report.json"), "--out", str(way.folder / "no-panel"), "-q"]) == 3


def test_the_panel_refused_every_real_count(way: Way) -> None:
    """summary.json had become version 2 and the panel asked for 1; its tests wrote their own summaries."""
    pair = way.cohort[0]
    out = way.folder / "pdl1-count"
    assert _run(["count", str(pair.ihc), "--marker", "pdl1", "--out", str(out), "-q"]) == 0
    assert _run(["panel", str(out / "summary.json"), "--out", str(way.folder / "counted"), "-q"]) == 0
    panel = json.loads((way.folder / "counted" / "panel.json").read_text())
    summary = json.loads((out / "summary.json").read_text())
    assert panel["evidence"]["pdl1"]["value"] == pytest.approx(summary["pdl1"]["tps"], abs=1e-6)
    assert panel["evidence"]["pdl1"]["value"] == pytest.approx(pair.truth.summary["global_ratio"], abs=0.02)
