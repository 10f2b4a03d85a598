"""The virtual slide: marked in its name, its metadata and its picture, and never taken for a stained slide."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import openslide
import pytest
import tifffile

from tests.fixtures.counting import FieldStyle, stained_field
from tests.fixtures.models import TinyPredictor
from tests.fixtures.slides import write_tiled_tiff
from virtual_stain.cli.main import _run
from virtual_stain.counting.optical_density import PUBLISHED_DAB, PUBLISHED_HEMATOXYLIN
from virtual_stain.errors import SlideError
from virtual_stain.geometry import Size
from virtual_stain.scoring.inputs import ScoreInput
from virtual_stain.slides.slide import SlideRef, open_slide
from virtual_stain.slides.virtual_look import VIRTUAL_STAINS, looks_virtual
from virtual_stain.virtual.draw import render
from virtual_stain.workflows.score_many import score_slides
from virtual_stain.workflows.score_slides import ScoreOptions
from virtual_stain.workflows.virtual_pyramid import LILAC, Canvas, glass, tinted, without_reading, write_virtual_slide

MPP = 0.5
FIELD = stained_field(500.0, MPP, style=FieldStyle(spacing_um=12.0, glass=False))


@pytest.fixture(scope="module")
def virtual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A field of IHC on 1,300 × 1,100 px of glass, written as a prediction."""
    folder = tmp_path_factory.mktemp("virtual")
    canvas = Canvas(folder, Size(1300, 1100))
    canvas.draw(64, 32, tinted(FIELD.rgb))
    path = folder / "block 7.ki67.virtual.ome.tif"
    write_virtual_slide(path, canvas, MPP, {"model_sha256": "ab" * 32})
    return path


def test_it_says_what_it_is_in_name_metadata_and_picture(virtual: Path) -> None:
    with tifffile.TiffFile(virtual) as file:
        xml = file.ome_metadata or ""
        assert 'Name="VIRTUAL block 7.ki67.virtual"' in xml
        assert "predicted from H&amp;E by a model, not a stain" in xml
        assert "ab" * 32 in xml
        assert f'PhysicalSizeX="{MPP}"' in xml
        levels = [level.asarray() for level in file.series[0].levels]
        marked = [page.tags.valueof("Software") for page in (file.pages[0], *file.pages[0].pages)]
    assert all("VSTAIN-VIRTUAL-PREDICTION" in str(text) for text in marked)
    assert [level.shape for level in levels] == [(1100, 1300, 3), (550, 650, 3)]
    for level in levels:
        bare = level[-40:, -40:].reshape(-1, 3).astype(int)
        assert np.abs(np.median(bare, axis=0) - LILAC).max() <= 2
        width = level.shape[1]
        beside = level[:512, width - 100 :].astype(int)  # right of what is drawn
        text = np.abs(beside - glass(width - 100, 0)[:512, :100].astype(int)).mean()
        assert text < 3, "the text, as large at every level"
        assert (np.abs(beside - LILAC).sum(axis=2) > 100).mean() > 0.01
    drawn = levels[0][40:1000, 80:1040].astype(int)
    assert np.abs(drawn - tinted(FIELD.rgb)[8:968, 16:976]).mean() < 3, "JPEG"
    halved = cv2.resize(levels[0], (650, 550), interpolation=cv2.INTER_AREA)
    inside = np.s_[20:510, 36:525]
    assert np.abs(halved[inside].astype(int) - levels[1][inside]).mean() < 5, "JPEG of two levels"


def test_every_reader_opens_it_with_the_right_pixel_size(virtual: Path) -> None:
    with openslide.OpenSlide(str(virtual)) as slide:
        assert slide.dimensions == (1300, 1100)
    with open_slide(SlideRef(virtual, virtual=True)) as ours:
        assert ours.mpp is not None
        assert (ours.mpp.x, ours.mpp.y) == (MPP, MPP)
        assert any("not a stain" in text for text in ours.warnings)
    if shutil.which("tiffinfo"):
        told = subprocess.run(["tiffinfo", virtual], capture_output=True, text=True, check=True).stdout
        assert "Resolution: 20000, 20000 pixels/cm" in told


def test_what_has_no_reading_is_grey_and_never_brown() -> None:
    grey = without_reading(FIELD.rgb)
    assert (grey.max(axis=2) == grey.min(axis=2)).all()
    assert np.ptp(grey) > 20, "its tissue is still seen"


def test_the_same_picture_is_the_same_bytes_and_a_pixel_is_drawn_once(virtual: Path, tmp_path: Path) -> None:
    """In pieces and in another order."""
    canvas = Canvas(tmp_path, Size(1300, 1100))
    picture = tinted(FIELD.rgb)
    for y in range(800, -1, -200):
        for x in range(0, 1000, 250):
            canvas.draw(64 + x, 32 + y, picture[y : y + 200, x : x + 250])
    again = tmp_path / virtual.name
    write_virtual_slide(again, canvas, MPP, {"model_sha256": "ab" * 32})
    assert again.read_bytes() == virtual.read_bytes()
    canvas.draw(1290, 1095, np.full((64, 64, 3), 7, np.uint8))  # what reaches beyond the picture is left out
    canvas.draw(1400, 0, np.full((64, 64, 3), 7, np.uint8))


@pytest.mark.parametrize(
    "command",
    [
        ["count", "FILE", "--marker", "ki67"],
        ["count", "TABLE"],
        ["register", "HE", "FILE"],
        ["register", "FILE", "HE"],
        ["build-records", "PAIRS", "--accept-unreviewed"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_it_never_comes_back_as_truth(
    command: list[str],
    virtual: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Every command refuses it by what stands in the file, under whatever name."""
    monkeypatch.setenv("VSTAIN_PATIENT_KEY", str(tmp_path / "key"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "key").write_text("ab" * 32, encoding="ascii")
    (tmp_path / "key").chmod(0o600)
    file = shutil.copy(virtual, tmp_path / "renamed.tif")
    he = write_tiled_tiff(tmp_path / "he.tif", FIELD.rgb, MPP)
    table = tmp_path / "slides.csv"
    table.write_text(f"slide,marker\n{file},ki67\n", encoding="utf-8")
    pairs = tmp_path / "pairs.csv"
    pairs.write_text(f"pair,patient,marker,he,ihc\na,p1,ki67,{he},{file}\n", encoding="utf-8")
    given = {"FILE": str(file), "HE": str(he), "TABLE": str(table), "PAIRS": str(pairs)}
    code = _run([*(given.get(word, word) for word in command), "--out", str(tmp_path / "out"), "--jobs", "1", "-q"])
    assert code in (3, 6)
    assert "virtual slide, predicted from H&E" in " ".join(capsys.readouterr().err.split())
    assert not list((tmp_path / "out").rglob("*.tfrecord"))
    assert not list((tmp_path / "out").rglob("summary.json"))


def test_nor_as_the_he_that_a_model_reads(virtual: Path, tmp_path: Path) -> None:
    item = ScoreInput(SlideRef(virtual), tmp_path)
    with pytest.raises(SlideError, match="virtual slide, predicted from H&E"):
        score_slides([item], ScoreOptions(model="tiny"), predictor=TinyPredictor())


def drawn_crop() -> np.ndarray:
    """uint8[336, 336, 3]: a part of a virtual slide, nuclei of the reference stain on faint ground."""
    rng = np.random.default_rng(4)
    hematoxylin, dab = np.full((336, 336), 0.05, np.float32), np.zeros((336, 336), np.float32)
    for y in range(12, 336, 22):
        for x in range(12, 336, 22):
            at = (int(x + rng.integers(-3, 4)), int(y + rng.integers(-3, 4)))
            positive = rng.random() < 0.3
            cv2.circle(hematoxylin, at, 7, 0.1 if positive else float(rng.uniform(0.2, 0.4)), -1)
            cv2.circle(dab, at, 7, 0.55 if positive else 0.0, -1)
    return tinted(render(hematoxylin, dab))


@pytest.mark.parametrize("kind", ["png", "jpg", "half.png", "quarter.png", "screen.png"])
def test_nor_does_a_crop_or_a_picture_of_the_screen_without_the_mark(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A crop that another program had saved was counted as a stained slide, without a word."""
    crop = drawn_crop()
    if kind.startswith(("half", "quarter")):
        side = 168 if kind.startswith("half") else 84
        crop = cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA)
    if kind.startswith("screen"):
        crop = cv2.copyMakeBorder(crop, 40, 40, 60, 60, cv2.BORDER_CONSTANT, value=(240, 240, 240))
    path = tmp_path / f"saved by another program.{kind}"
    cv2.imwrite(str(path), crop[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])
    given = ["count", str(path), "--marker", "ki67", "--mpp", "0.6", "--out", str(tmp_path / "out"), "-q"]
    assert _run(given) == 3
    assert "the colours of a virtual slide" in " ".join(capsys.readouterr().err.split())
    if kind == "png":
        assert _run([*given, "--virtual"]) == 0
        summary = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))
        assert any("the colours of a virtual slide" in text for text in summary["warnings"])


def test_stained_pictures_do_not_have_its_colours() -> None:
    assert VIRTUAL_STAINS == (PUBLISHED_HEMATOXYLIN, PUBLISHED_DAB)
    for seed, light in enumerate(((243, 243, 243), (250, 236, 244), LILAC)):
        field = stained_field(160.0, MPP, seed=seed)
        lit = np.clip(field.rgb * (np.array(light) / 245.0), 0, 255)
        assert not looks_virtual(lit.astype(np.uint8)), "other stains, and the noise of a camera"
    assert not looks_virtual(np.full((64, 64, 3), LILAC, np.uint8)), "nothing is drawn there"
    assert not looks_virtual(np.full((64, 64, 3), 240, np.uint8))


def test_a_look_at_it_must_be_asked_for_and_says_what_was_counted(
    virtual: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "look"
    look = ["count", str(virtual), "--marker", "ki67", "--out", str(out), "--jobs", "1", "-q"]
    assert _run([*look, "--virtual"]) == 0
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert summary["tumour"]["ratio"] == pytest.approx(FIELD.positive.mean(), abs=0.05)
    assert summary["warnings"][0].startswith("virtual slide: predicted from H&E by a model, not a stain")
    capsys.readouterr()
    assert _run(look) == 3, "also where the count is there"
    assert "--virtual" in capsys.readouterr().err


def test_info_tells_what_it_is(virtual: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["info", str(virtual), "-q"]) == 0
    assert "not a stain" in capsys.readouterr().out


def test_any_other_slide_is_none(tmp_path: Path) -> None:
    path = write_tiled_tiff(tmp_path / "VIRTUAL slide 7.tif", FIELD.rgb, MPP)
    with open_slide(SlideRef(path)) as slide:
        assert not any("virtual" in text for text in slide.warnings)
    with pytest.raises(SlideError, match="no such file"):
        open_slide(SlideRef(tmp_path / "none.tif"))
