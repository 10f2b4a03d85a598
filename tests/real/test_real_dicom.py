"""DICOM out of a report: read back with other means, at the right place of a real DICOM slide."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from virtual_stain.cli.main import _run
from virtual_stain.files import sha256_file
from virtual_stain.slides.slide import SlideRef, open_slide

DATA = os.environ.get("VSTAIN_REALDATA")
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(DATA is None, reason="VSTAIN_REALDATA is unset: no real DICOM slide to test on"),
    pytest.mark.filterwarnings("ignore::UserWarning:pydicom"),
]
SLIDE = Path(DATA or ".") / "wsi_small" / "sm_image.dcm"
MPP, STEP_UM = 0.499, 4.99  # 10 of the slide's pixels a tile
TILES = {(0, 0): 0.05, (3, 1): 0.31, (4, 4): 0.32, (2, 2): None}


@pytest.fixture
def report(tmp_path):
    """As `vstain score` would write it: the slide itself is too small to be scored."""
    folder = tmp_path / "Präparat-vstain"
    folder.mkdir()
    rows = ["col,row,x,y,width,height,ki67,ki67_tumour_cells,tissue_fraction,used,flags,used_ki67"]
    for (col, row), value in TILES.items():
        # the last one enters the readings of another marker, not of this one
        rest = "0.9,80,1,1,few_cells:ki67,0" if value is None else f"{value},80,1,1,,1"
        rows.append(f"{col},{row},{col * 10},{row * 10},10,10,{rest}")
    table = folder / "a.tiles.csv"
    table.write_text("\n".join(rows) + "\n")
    with open_slide(SlideRef(SLIDE)) as slide:
        digest = slide.content_hash()
    reading = {
        "value_definition": "positive_ratio",
        "global_ratio": 0.2267,
        "global_mean": 0.22,
        "top_mean": None,
        "n_tiles": 3,
    }
    value = {
        "schema_version": 1,
        "slide": {
            "path": str(SLIDE),
            "content_sha256": digest,
            "width_px0": 50,
            "height_px0": 50,
            "bounds_px0": [0, 0, 50, 50],
            "mpp_x": MPP,
            "mpp_y": MPP,
        },
        "model": {"name": "tiny", "version": 3},
        "readings": {"ki67": reading},
        "tiles": {"columns": 5, "rows": 5, "stride_um": STEP_UM},
        "outputs": {"a.tiles.csv": {"sha256": sha256_file(table)}},
    }
    path = folder / "a.report.json"
    path.write_text(json.dumps(value))
    return path


def _dicom(report, out, source=SLIDE, *more):
    return _run(["dicom", str(report), "--source", str(source), "--out", str(out), *more])


PYRAMID = Path(DATA or ".") / "dicom_pyramid" / "level-0-frames-0-30.dcm"
_DCIODVFY = shutil.which("dciodvfy")


def _errors(path):
    done = subprocess.run([str(_DCIODVFY), str(path)], capture_output=True, text=True, timeout=60)
    return [line for line in (done.stdout + done.stderr).splitlines() if line.startswith(("Error", "Abort"))]


def _report_of(slide_path, folder):
    """As `vstain score` would write it of a slide of any size, with tiles of 307.2 µm from edge to edge."""
    with open_slide(SlideRef(slide_path)) as slide:
        digest, size, mpp = slide.content_hash(), slide.size, slide.mpp.x
    step = 307.2 / mpp
    columns, rows_down = int(size.width // step) + 1, int(size.height // step) + 1
    rows = ["col,row,x,y,width,height,ki67,ki67_tumour_cells,tissue_fraction,used,flags,used_ki67"]
    for col, row in np.ndindex(columns, rows_down):
        box = f"{col * step:.3f},{row * step:.3f},{step:.3f},{step:.3f}"
        rows.append(f"{col},{row},{box},{(col + row) % 7 / 10:.3f},80,1,1,,1")
    folder.mkdir()
    table = folder / "a.tiles.csv"
    table.write_text("\n".join(rows) + "\n")
    reading = {"value_definition": "positive_ratio", "global_ratio": 0.2, "global_mean": 0.2, "top_mean": None}
    slide = {"path": str(slide_path), "content_sha256": digest, "mpp_x": mpp, "mpp_y": mpp}
    slide |= {"width_px0": size.width, "height_px0": size.height, "bounds_px0": [0, 0, size.width, size.height]}
    value = {
        "schema_version": 1,
        "slide": slide,
        "model": {"name": "tiny", "version": 3},
        "readings": {"ki67": reading | {"n_tiles": len(rows) - 1}},
        "tiles": {"columns": columns, "rows": rows_down, "stride_um": 307.2},
        "outputs": {"a.tiles.csv": {"sha256": sha256_file(table)}},
    }
    path = folder / "a.report.json"
    path.write_text(json.dumps(value))
    return path


def test_a_de_identified_slide_without_patient_or_study_crashed(tmp_path):
    import pydicom

    report = _report_of(PYRAMID, tmp_path / "r")
    assert _dicom(report, tmp_path / "out", PYRAMID) == 0
    for name in ("a.sr.dcm", "a.ki67.seg.dcm"):
        found = pydicom.dcmread(tmp_path / "out" / name)
        for keyword in ("PatientID", "PatientName", "PatientBirthDate", "StudyDate", "AccessionNumber"):
            assert keyword in found  # type 2: there, and empty
            assert not found[keyword].value
        assert found.StudyInstanceUID == pydicom.dcmread(PYRAMID, stop_before_pixels=True).StudyInstanceUID


@pytest.mark.skipif(_DCIODVFY is None, reason="dciodvfy (Debian: dicom3tools) is not installed")
@pytest.mark.parametrize("slide", [PYRAMID, SLIDE], ids=["de-identified", "complete"])
def test_what_is_written_passes_the_validator(slide, report, tmp_path):
    of_slide = report if slide == SLIDE else _report_of(slide, tmp_path / "r")
    assert _dicom(of_slide, tmp_path / "out", slide) == 0
    for name in ("a.sr.dcm", "a.ki67.seg.dcm"):
        assert _errors(tmp_path / "out" / name) == []


def test_the_structured_report_holds_the_readings(report, tmp_path):
    from highdicom.sr import srread

    assert _dicom(report, tmp_path / "out") == 0
    value = srread(tmp_path / "out" / "a.sr.dcm")
    (group,) = value.content.get_image_measurement_groups()
    found = {m.name.value: m.value for m in group.get_measurements()}
    assert found == {"ki67-global_ratio": 22.67, "ki67-global_mean": 22.0, "ki67-n-tiles": 3}  # a null is left out
    assert (value.CompletionFlag, value.VerificationFlag) == ("COMPLETE", "UNVERIFIED")
    assert value.PatientID == "AA01"  # whose slide it is: DICOM demands it


def test_a_her2_score_stands_in_the_structured_report_and_2_plus_is_equivocal(report, tmp_path):
    from highdicom.sr import srread

    value = json.loads(report.read_text())
    reading = value["readings"].pop("ki67") | {"her2": {"score": "2+", "note": "equivocal, needs ISH"}}
    table = report.with_name("a.tiles.csv")
    table.write_text(table.read_text().replace("ki67", "her2"))
    digest = {"sha256": sha256_file(table)}
    report.write_text(json.dumps(value | {"readings": {"her2": reading}, "outputs": {"a.tiles.csv": digest}}))
    assert _dicom(report, tmp_path / "out") == 0
    (group,) = srread(tmp_path / "out" / "a.sr.dcm").content.get_image_measurement_groups()
    (evaluation,) = group.get_qualitative_evaluations()
    assert (evaluation.name.meaning, evaluation.value.meaning) == (
        "HER2 score predicted from H&E",
        "2+: equivocal, needs ISH",
    )
    assert all(m.name.meaning.startswith("HER2-stained") for m in group.get_measurements())


def test_the_segmentation_lies_on_the_slide(report, tmp_path):
    import highdicom as hd
    import pydicom

    assert _dicom(report, tmp_path / "out") == 0
    found = hd.seg.segread(tmp_path / "out" / "a.ki67.seg.dcm")
    labels = [found.get_segment_description(n).segment_label for n in found.segment_numbers]
    assert labels == ["Ki67 5-10 %", "Ki67 30-40 %"]
    matrix = found.get_total_pixel_matrix(combine_segments=True)
    assert matrix.shape == (5, 5)
    assert {(int(c), int(r)): int(matrix[r, c]) for r, c in np.argwhere(matrix)} == {(0, 0): 1, (3, 1): 2, (4, 4): 2}

    source = pydicom.dcmread(SLIDE)

    def centres(dataset, spacing):
        """(column, row) → slide position in mm, from the standard's own formula and nothing of ours."""
        origin = dataset.TotalPixelMatrixOriginSequence[0]
        start = np.array([float(origin.XOffsetInSlideCoordinateSystem), float(origin.YOffsetInSlideCoordinateSystem)])
        along_row = np.array([float(v) for v in dataset.ImageOrientationSlide[:2]])
        along_column = np.array([float(v) for v in dataset.ImageOrientationSlide[3:5]])
        return lambda col, row: start + along_row * spacing[1] * col + along_column * spacing[0] * row

    def spacing_of(dataset):
        return [float(v) for v in dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing]

    tile, pixel = centres(found, spacing_of(found)), centres(source, spacing_of(source))
    for col, row in TILES:
        # the tile's centre is between its fifth and sixth pixel
        assert tile(col, row) == pytest.approx(pixel(col * 10 + 4.5, row * 10 + 4.5), abs=1e-6)


def test_refusals(report, tmp_path, capsys):
    other = tmp_path / "other.dcm"
    other.write_bytes(SLIDE.read_bytes()[:-2] + b"\0\1")
    assert _dicom(report, tmp_path / "out", other) == 3
    assert "expected the slide of the report" in capsys.readouterr().err
    assert _dicom(report, tmp_path / "out") == 0
    assert _dicom(report, tmp_path / "out") == 3
    assert "exists already" in capsys.readouterr().err
    assert _dicom(report, tmp_path / "out", SLIDE, "--force") == 0
    table = report.with_name("a.tiles.csv")
    table.write_text(table.read_text().replace("0.31", "0.81"))
    assert _dicom(report, tmp_path / "out2") == 3
    assert "expected the table that a.report.json was written with" in capsys.readouterr().err
    report.write_text(report.read_text().replace('"width_px0": 50', '"width_px0": 60'))
    table.write_text(table.read_text().replace("0.81", "0.31"))
    assert _dicom(report, tmp_path / "out2") == 3
    assert "no instance of its series has 60 × 50 px" in capsys.readouterr().err
