"""`vstain score --path`: one way or the other, or both beside each other; here or through a server."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from tests.fixtures.models import tiny_card, write_tiny_bundle
from tests.fixtures.serving import Loopback
from tests.fixtures.virtual import CARD, TILE_PX, he_picture, indirect_network, write_he, write_indirect_bundle
from virtual_stain.cli.main import _run
from virtual_stain.config import ScoringSettings
from virtual_stain.errors import ModelError
from virtual_stain.scoring.local import LocalPredictor
from virtual_stain.scoring.map_parts import maps_in_parts
from virtual_stain.scoring.open_model import open_predictor


@pytest.fixture(scope="module")
def he(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_he(tmp_path_factory.mktemp("he") / "a.tif")


@pytest.fixture(scope="module")
def indirect(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_indirect_bundle(tmp_path_factory.mktemp("model") / "indirect")


@pytest.fixture(scope="module")
def direct(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "direct"
    write_tiny_bundle(folder, CARD)
    return folder


def score(he: Path, out: Path, *given: str) -> int:
    return _run(["score", str(he), "--out", str(out), "-q", "--force-unsuitable", *given])


def report(out: Path) -> dict:
    return json.loads((out / "a.report.json").read_text(encoding="utf-8"))


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "a.tiles.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def read(he: Path, indirect: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out")
    assert score(he, out, "--model", str(indirect), "--path", "indirect") == 0
    return out


def test_the_indirect_path_counts_on_the_picture_and_writes_no_slide(read: Path) -> None:
    found = report(read)["virtual"]
    assert found["file"] is None
    assert not list(read.glob("*.tif"))
    assert found["counted_tumour_cells"] > 150
    assert sum(bool(row["ki67_counted"]) for row in rows(read)) == found["tiles"] >= 9


def test_both_paths_stand_in_one_report_with_their_own_flags(
    he: Path, direct: Path, indirect: Path, read: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, both = tmp_path / "plain", tmp_path / "both"
    assert score(he, plain, "--model", str(direct), "--path", "direct") == 0
    assert score(he, both, "--model", str(direct), "--path", "both", "--indirect-model", str(indirect)) == 0
    capsys.readouterr()
    alone, beside = report(plain), report(both)
    assert beside["readings"] == alone["readings"], "the direct reading and its flags are its own"
    assert "virtual" not in alone
    assert beside["virtual"]["counted"] is not None
    assert beside["virtual"]["model"]["sha256"] != beside["model"]["sha256"]
    assert beside["virtual"]["flags"] == report(read)["virtual"]["flags"]
    told = {note["code"] for note in beside["warnings"]}
    assert set(beside["virtual"]["flags"]) <= told
    page = (both / "a.report.html").read_text(encoding="utf-8")
    assert "Indirect path" in page
    drawn = {(r["col"], r["row"]): r for r in rows(read) if r["ki67_counted"]}
    for row in rows(both):
        if row["ki67_counted"]:
            same = drawn[row["col"], row["row"]]
            assert [row[f"ki67_{n}"] for n in ("counted", "expected")] == [
                same[f"ki67_{n}"] for n in ("counted", "expected")
            ]


@pytest.mark.parametrize(
    ("given", "code", "told"),
    [
        (("--model", "INDIRECT", "--path", "direct"), 5, "expected a model of the direct path"),
        (("--model", "DIRECT", "--path", "indirect"), 5, "model.path=indirect"),
        (("--model", "DIRECT", "--path", "both"), 2, "expected two models"),
        (("--model", "DIRECT", "--path", "both", "--indirect-model", "DIRECT"), 5, "--indirect-model: expected"),
        (
            ("--model", "INDIRECT", "--path", "both", "--indirect-model", "INDIRECT"),
            5,
            "--path both: --model: expected",
        ),
        (("--model", "DIRECT", "--indirect-model", "INDIRECT"), 2, "--indirect-model: expected --path both"),
        (("--model", "DIRECT", "--path", "direct", "--virtual-slide"), 2, "which draw slides"),
        (("--model", "OTHER", "--path", "both", "--indirect-model", "INDIRECT"), 5, "two models of the same tiles"),
    ],
)
def test_words_and_models_that_do_not_fit_are_refused(
    given: tuple[str, ...], code: int, told: str, he: Path, direct: Path, indirect: Path, tmp_path: Path, capsys
) -> None:
    names = {"INDIRECT": str(indirect), "DIRECT": str(direct)}
    if "OTHER" in given:
        write_tiny_bundle(tmp_path / "other", tiny_card(window_um=100.0, tile_px=TILE_PX, min_tumour_cells=10))
        names["OTHER"] = str(tmp_path / "other")
    assert score(he, tmp_path / "out", *(names.get(word, word) for word in given)) == code
    assert told in " ".join(capsys.readouterr().err.split())
    assert not list((tmp_path / "out").glob("*.report.json"))


def test_a_bundle_answers_the_maps_of_its_network(indirect: Path) -> None:
    pixels = he_picture()[None, 128:320, 128:288]
    loaded = LocalPredictor(indirect).maps(pixels)
    for name, values in indirect_network().generator(pixels).items():
        np.testing.assert_allclose(loaded[name], values.numpy(), rtol=1e-4, atol=1e-5)
        assert np.ptp(loaded[name]) > 0


def test_maps_in_parts_are_those_of_the_whole_window(indirect: Path) -> None:
    loaded = LocalPredictor(indirect)
    window = np.pad(he_picture(), ((0, 64), (0, 32), (0, 0)), mode="reflect")[None]
    whole = loaded.maps(window)
    seen: list[tuple[int, ...]] = []

    def ask(part: np.ndarray) -> dict[str, np.ndarray]:
        seen.append(part.shape)
        return loaded.maps(part)

    for side in (256, 384, 512):
        parts = maps_in_parts(ask, window, loaded.card.training["map"]["halo_px"], side)
        for name, values in whole.items():
            np.testing.assert_allclose(parts[name], values, rtol=1e-4, atol=1e-5)
    assert max(max(shape[1:3]) for shape in seen) <= 512
    without = maps_in_parts(loaded.maps, window, 0, 256)
    assert np.abs(without["positive_share"] - whole["positive_share"]).max() > 1e-3, "the halo is needed"


def test_a_server_answers_the_maps_within_grpcs_own_limit(
    he: Path, indirect: Path, read: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    largest = []
    with Loopback(indirect, "indirect", largest_message=4 * 2**20) as server:
        there = open_predictor(server.grpc_address, ScoringSettings(server_patience_s=5))
        try:
            window = np.random.default_rng(0).integers(0, 256, (1, 1632, 1632, 3), np.uint8)
            ask = there._transport.maps
            monkeypatch.setattr(there._transport, "maps", lambda w, *a: largest.append(w.nbytes) or ask(w, *a))
            got = there.maps(window)
            assert 2**20 < max(largest) < 4 * 2**20
        finally:
            there.close()
        for name, values in LocalPredictor(indirect).maps(window).items():
            assert got[name].shape == (1, 408, 408)
            np.testing.assert_allclose(got[name], values, rtol=1e-4, atol=1e-5)
        assert score(he, tmp_path, "--model", server.grpc_address, "--path", "indirect") == 0
        with pytest.raises(ModelError, match="gRPC port"):
            open_predictor(server.rest_address, ScoringSettings(server_patience_s=5)).maps(window)
    here, served = report(read)["virtual"], report(tmp_path)["virtual"]
    assert served["counted_tumour_cells"] == here["counted_tumour_cells"]
    assert served["expected"] == pytest.approx(here["expected"], abs=1e-4)
    assert served["counted"] == pytest.approx(here["counted"], abs=0.01)
