"""H&E is told from IHC before a slide is scored: a number of an IHC slide looks like any other."""

import csv

import numpy as np
import pytest

from tests.fixtures.models import block_image, tissue_slide, write_tiny_bundle
from tests.fixtures.slides import write_tiled_tiff
from virtual_stain.cli.main import _run
from virtual_stain.slides.stain_kind import StainKind, colours_of

GLASS = np.full(3, 244.0)
EOSIN, HEMATOXYLIN, DAB = (0.09, 0.95, 0.28), (0.65, 0.70, 0.29), (0.27, 0.57, 0.78)


def picture(*stains, size=100):
    """A third of each side's columns in one stain, OD 0.4."""
    density = np.stack([np.array(stains[i % len(stains)]) * 0.5 for i in range(size)])
    return np.broadcast_to(244 * 10.0**-density, (size, size, 3)).round().astype(np.uint8)


@pytest.mark.parametrize(
    ("stains", "kind"),
    [
        ((EOSIN, EOSIN, HEMATOXYLIN), StainKind.PINK),
        ((HEMATOXYLIN, HEMATOXYLIN, DAB), StainKind.BLUE_BROWN),
        ((DAB,), StainKind.BLUE_BROWN),
        ((HEMATOXYLIN,), StainKind.BLUE_BROWN),  # a negative slide: nothing is brown
        (((0.58, 0.58, 0.58),), StainKind.UNCLEAR),  # grey: no stain
        (((0.0, 0.0, 0.0),), StainKind.UNCLEAR),  # glass
    ],
)
def test_pink_tells_he_from_ihc(stains, kind):
    wide = [np.repeat(picture(*stains), 3, axis=1)]  # columns wide enough not to be smoothed together
    assert colours_of(wide, GLASS).kind is kind


def test_no_picture_says_nothing():
    nothing = colours_of([], GLASS)
    assert nothing.kind is StainKind.UNCLEAR
    assert nothing.he_doubt == ""


VIOLET, FAST_RED, MAGENTA = (0.55, 0.78, 0.30), (0.21, 0.85, 0.48), (0.14, 0.90, 0.41)


def section(tissue, places, *, share=0.12, size=400, density=1.6):
    """Tissue of one stain with denser places of another, as nuclei are; half of the places have the tissue's stain."""
    rng = np.random.default_rng(0)
    amount = np.full((size, size), 0.3)
    stained = np.zeros((size, size), bool)
    for i, (y, x) in enumerate(rng.integers(0, size - 10, (round(share * size * size / 100), 2))):
        amount[y : y + 10, x : x + 10] = 0.9 * density / 2
        stained[y : y + 10, x : x + 10] = i % 2 == 0
    vectors = np.where(stained[..., None], places, tissue)
    return [(244 * 10.0 ** -(amount[..., None] * vectors)).round().astype(np.uint8)]


@pytest.mark.parametrize(
    ("tissue", "places", "word"),
    [
        (VIOLET, DAB, "DAB with a violet counterstain"),
        (VIOLET, FAST_RED, "red chromogen"),
        (VIOLET, MAGENTA, "red chromogen"),
        (EOSIN, HEMATOXYLIN, ""),
        (EOSIN, DAB, ""),  # brown margin ink, pigment: eosin is plain
        ((0.50, 0.80, 0.30), HEMATOXYLIN, ""),  # violet H&E: its nuclei are bluer
    ],
)
def test_a_violet_counterstain_or_a_red_chromogen_was_scored_as_h_and_e_without_a_word(tissue, places, word):
    found = colours_of(section(tissue, places), GLASS)
    assert found.kind is not StainKind.BLUE_BROWN, "not surely IHC: it is not refused"
    assert word in found.he_doubt
    assert bool(word) == bool(found.he_doubt)


def ihc_slide(path):
    colours = [[(150, 120, 90), (120, 130, 190), (120, 130, 190), (120, 130, 190)]] * 4
    image = np.full((768, 768, 3), 244, np.int16)
    image[128:-128, 128:-128] = block_image(colours)
    image += np.random.default_rng(1).integers(-6, 7, image.shape, dtype=np.int16)
    return write_tiled_tiff(path, np.clip(image, 0, 255).astype(np.uint8), 0.3, levels=(1, 2))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    out = tmp_path_factory.mktemp("models") / "tiny"
    write_tiny_bundle(out)
    return out


@pytest.fixture(autouse=True)
def _here(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "no-data"))
    monkeypatch.chdir(tmp_path)


def test_an_ihc_slide_was_scored_with_an_he_model_and_ended_with_0(model, tmp_path, capsys):
    ihc_slide(tmp_path / "ki67.tiff")
    command = ["score", "ki67.tiff", "--model", str(model), "-q", "--set", "tissue.overview_mpp=2"]
    assert _run(command) == 2
    error = capsys.readouterr().err
    assert "expected an H&E slide, since the model reads H&E" in error
    assert "vstain count SLIDE" in error
    assert not (tmp_path / "ki67-vstain" / "ki67.report.json").exists()
    assert _run([*command, "--force-unsuitable"]) == 0
    assert "  doubtful: not_he: Scored all the same" in capsys.readouterr().out
    assert _run(command) == 2  # the report that was insisted on is no result of this command


def test_a_violet_ihc_slide_carries_its_doubt_beside_the_number(model, tmp_path, capsys):
    image = np.full((768, 768, 3), 244, np.uint8)
    image[128:-128, 128:-128] = section(VIOLET, DAB, size=512)[0]
    image = np.round(image * (0.95, 1.0, 0.95)).astype(np.uint8)  # greenish light: no virtual slide has it
    noise = np.random.default_rng(1).integers(-6, 7, image.shape, dtype=np.int16)
    write_tiled_tiff(tmp_path / "v.tiff", np.clip(image + noise, 0, 255).astype(np.uint8), 0.3, levels=(1, 2))
    assert _run(["score", "v.tiff", "--model", str(model), "-q", "--set", "tissue.overview_mpp=2"]) == 0
    shown = capsys.readouterr().out
    assert "doubtful: perhaps_not_he: Perhaps no H&E slide" in shown
    assert "perhaps_not_he" in (tmp_path / "v-vstain" / "v.report.json").read_text()
    assert "Perhaps no H&amp;E slide" in (tmp_path / "v-vstain" / "v.report.html").read_text()


def test_the_flags_stand_beside_the_number_on_the_console_and_in_the_table(model, tmp_path, capsys):
    tissue_slide(tmp_path / "a.tiff")
    ihc_slide(tmp_path / "b.tiff")
    command = ["score", "a.tiff", "b.tiff", "--model", str(model), "--out", "o", "--mpp", "0.6"]
    assert _run([*command, "--set", "tissue.overview_mpp=2"]) == 6
    shown = capsys.readouterr()
    assert "doubtful: pixel_size: pixel size: 0.6 µm/px (override) is used, but the file also says 0.3" in shown.out
    assert "a: pixel size: 0.6 µm/px (override) is used" in shown.err  # before the work, too
    assert "doubtful: training_range_unknown: The model does not say how its training slides looked" in shown.out
    with (tmp_path / "o" / "scores.csv").open() as table:
        rows = {row["slide"]: row for row in csv.DictReader(table)}
    assert {"pixel_size", "coarse_pixels", "training_range_unknown"} <= set(rows["a"]["ki67_flags"].split(";"))
    assert rows["b"]["status"] == "failed"
    assert "H&E" in rows["b"]["reason"]


def test_score_of_one_broken_slide_gave_its_reason_twice(model, tmp_path, capsys):
    (tmp_path / "broken.tiff").write_bytes(b"II*\0")
    slide, out = tmp_path / "broken.tiff", tmp_path / "out"
    assert _run(["score", str(slide), "--model", str(model), "--out", str(out)]) == 3
    assert capsys.readouterr().err.count(f"{slide}: ") == 1
