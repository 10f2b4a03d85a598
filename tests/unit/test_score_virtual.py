"""`vstain score --virtual-slide`: the drawn slide and its three readings, the same however it is read."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

from tests.fixtures.models import write_tiny_bundle
from tests.fixtures.virtual import CARD, MPP, SIDE, he_picture, write_he, write_indirect_bundle
from virtual_stain.cli.main import _run
from virtual_stain.config import CountingSettings, TissueSettings
from virtual_stain.config.tiling import TilingSettings
from virtual_stain.errors import SlideError
from virtual_stain.markers import Marker
from virtual_stain.model.generator import HALO_PX
from virtual_stain.scoring.local import LocalPredictor
from virtual_stain.slides.slide import SlideRef, open_slide
from virtual_stain.slides.tissue import find_tissue
from virtual_stain.tiles import make_grid, plan_tiles
from virtual_stain.virtual.draw import slide_seed
from virtual_stain.virtual.reading import LOST, UNSTABLE, disagree
from virtual_stain.workflows.score_virtual import VirtualSlides
from virtual_stain.workflows.virtual_pyramid import LILAC
from virtual_stain.workflows.virtual_slide import VirtualReader, he_stain


@pytest.fixture(scope="module")
def he(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_he(tmp_path_factory.mktemp("he") / "block 7.tif")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_indirect_bundle(tmp_path_factory.mktemp("model") / "indirect")


def score(he: Path, model: Path, out: Path, *more: str) -> int:
    given = ["score", str(he), "--model", str(model), "--out", str(out), "--virtual-slide", "-q"]
    return _run([*given, "--force-unsuitable", *more])


@pytest.fixture(scope="module")
def done(he: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out")
    assert score(he, model, out) == 0
    return out


VIRTUAL = "block 7.ki67.virtual.ome.tif"


def test_the_slide_lies_beside_its_report_in_the_frame_of_the_he(done: Path, he: Path) -> None:
    report = json.loads((done / "block 7.report.json").read_text(encoding="utf-8"))
    assert report["virtual"]["file"] == VIRTUAL
    assert VIRTUAL in report["outputs"]
    with tifffile.TiffFile(done / VIRTUAL) as file:
        picture, xml = file.pages[0].asarray(), file.ome_metadata or ""
    assert picture.shape == (SIDE, SIDE, 3)
    assert report["model"]["sha256"] in xml
    assert report["slide"]["content_sha256"] in xml
    # nuclei of the picture lie where those of the H&E do
    dark = [cv2.GaussianBlur(255.0 - p[160:480, 160:480].min(axis=2), (0, 0), 2) for p in (picture, he_picture())]
    assert np.corrcoef(dark[0].ravel(), dark[1].ravel())[0, 1] > 0.6
    corner = picture[-64:, :64].reshape(-1, 3)
    assert np.abs(np.median(corner, axis=0) - LILAC).max() <= 2
    with pytest.raises(SlideError, match="virtual slide"):
        open_slide(SlideRef(done / VIRTUAL))
    assert not list(done.glob(".*virtual*")), "no scratch is left"


def test_the_three_readings_stand_in_table_and_report_with_their_flags(done: Path) -> None:
    report = json.loads((done / "block 7.report.json").read_text(encoding="utf-8"))
    with (done / "block 7.tiles.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    drawn = [row for row in rows if row["ki67_counted"]]
    assert len(drawn) == report["virtual"]["tiles"] == sum(int(row["used"]) for row in rows) >= 9
    found = sum(float(row["ki67_virtual_counted_cells"]) for row in drawn)
    counted = sum(float(row["ki67_counted"]) * float(row["ki67_virtual_counted_cells"]) for row in drawn) / found
    assert counted == pytest.approx(report["virtual"]["counted"], abs=1e-4)
    assert found == report["virtual"]["counted_tumour_cells"] > 150
    weights = np.array([float(row["ki67_virtual_expected_cells"]) for row in drawn])
    expected = np.average([float(row["ki67_expected"]) for row in drawn], weights=weights)
    assert expected == pytest.approx(report["virtual"]["expected"], abs=1e-4)
    assert all(0 <= float(row["ki67_density"]) <= 1 for row in drawn)
    flags = {flag: sum(flag in row["flags"].split(";") for row in rows) for flag in (UNSTABLE, LOST)}
    assert flags == report["virtual"]["tiles_flagged"]
    for row in drawn:
        differs = disagree(
            float(row["ki67_counted"]),
            float(row["ki67_expected"]),
            int(float(row["ki67_virtual_counted_cells"])),
        )
        assert (UNSTABLE in row["flags"].split(";")) == differs
        few = float(row["ki67_virtual_counted_cells"]) < 0.8 * float(row["ki67_virtual_expected_cells"])
        assert (LOST in row["flags"].split(";")) == few
    page = (done / "block 7.report.html").read_text(encoding="utf-8")
    assert "which nucleus is brown is an illustration" in page
    whole = report["virtual"]
    differs = disagree(whole["counted"], whole["expected"], whole["counted_tumour_cells"])
    assert (UNSTABLE in report["readings"]["ki67"]["flags"]) == differs


def test_the_drawn_picture_has_no_seams_in_any_tiling(he: Path, model: Path) -> None:
    settings, generator = CountingSettings(), LocalPredictor(model).maps
    pictures, cells = [], []
    with open_slide(SlideRef(he)) as slide:
        tissue = find_tissue(slide, TissueSettings())
        stain = he_stain(slide, tissue, settings)
        for tile_px in (128, 192, 384):
            tiling = TilingSettings(window_um=tile_px * MPP, tile_px=tile_px)
            plan = plan_tiles(slide, tissue, tiling)
            grid = make_grid(slide.bounds, plan.grid.mpp, tiling)
            reader = VirtualReader(
                slide=slide,
                tissue=tissue,
                grid=grid,
                generator=generator,
                marker=Marker.KI67,
                stain=stain,
                seed=slide_seed("ab"),
                settings=settings,
                halo_px=HALO_PX,
            )
            canvas, found = np.zeros((768, 768, 3), np.uint8), 0
            inside = [t for t in plan.tiles if (t.col + 1) * tile_px <= 384 and (t.row + 1) * tile_px <= 384]
            for tile in inside:
                read = reader.read(tile)
                canvas[tile.row * tile_px :, tile.col * tile_px :][:tile_px, :tile_px] = read.drawn
                found += read.reading.counted_cells
            pictures.append(canvas[128:384, 128:384])
            cells.append(found)
    assert len(np.unique(pictures[0].reshape(-1, 3), axis=0)) > 50
    for picture in pictures[1:]:
        np.testing.assert_array_equal(picture, pictures[0])
    assert cells[0] == cells[1] == cells[2] > 50


def test_a_direct_model_draws_nothing_and_says_how_to_train_one_that_does(
    he: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tiny_bundle(tmp_path / "direct", CARD)
    assert score(he, tmp_path / "direct", tmp_path / "out") == 5
    told = " ".join(capsys.readouterr().err.split())
    assert "expected a model of the indirect path" in told
    assert "model.path=indirect" in told
    assert not list((tmp_path / "out").glob("*.report.json"))


def test_a_bundle_of_the_indirect_path_from_before_has_no_maps(he: Path, tmp_path: Path, capsys) -> None:
    card = dataclasses.replace(CARD, training={"path": "indirect"})
    write_tiny_bundle(tmp_path / "old", card)
    assert score(he, tmp_path / "old", tmp_path / "out") == 5
    assert "export the run again" in " ".join(capsys.readouterr().err.split())


def test_it_is_kept_while_it_is_there_and_the_same_bytes_for_every_batch_size_and_number_of_threads(
    done: Path, he: Path, model: Path
) -> None:
    copy = done.parent / "copy"
    shutil.copytree(done, copy)
    assert score(he, model, copy) == 0
    assert json.loads((copy / "run.json").read_text(encoding="utf-8"))["outcomes"][0]["reason"] == "already scored"
    (copy / VIRTUAL).unlink()
    assert score(he, model, copy, "--jobs", "2", "--set", "scoring.batch_size=3") == 0
    for name in (VIRTUAL, "block 7.tiles.csv"):
        assert (copy / name).read_bytes() == (done / name).read_bytes()


def test_what_changes_the_picture_changes_what_it_is_made_from() -> None:
    plain, other = VirtualSlides(CountingSettings()), VirtualSlides(CountingSettings(max_area_um2=300))
    assert plain.settings() != other.settings()
    assert len(plain.settings()["code_sha256"]) == 64
