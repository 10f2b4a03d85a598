"""HER2 and PD-L1: membranes measured on drawn cells and on a phantom, and what becomes of them."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from tests.fixtures.counting import DAB, HEMATOXYLIN, FieldStyle, matches, stained_field
from virtual_stain.cli.main import _run
from virtual_stain.config.counting import CountingSettings
from virtual_stain.config.phantom import PhantomBiology, PhantomSettings
from virtual_stain.counting.cells import Cells
from virtual_stain.counting.count import Counted, count_image
from virtual_stain.counting.readings import read_tps
from virtual_stain.counting.stain import estimate_stain, examine_stain
from virtual_stain.her2 import NEEDS_ISH, read_her2
from virtual_stain.markers import Marker
from virtual_stain.phantom.cells import Nuclei
from virtual_stain.phantom.pair import make_pair

SETTINGS = CountingSettings()
MPP = 0.3


def drawn(od: float, share: float, cytoplasm_od: float = 0.0) -> npt.NDArray[np.uint8]:
    """36 cells on a lattice of 18 µm: nuclei of 4 µm radius, membranes at 5.5 µm, `share` of each stained."""
    side = round(108 / MPP)
    y, x = (np.mgrid[:side, :side] + 0.5) * MPP
    dx, dy = x % 18 - 9, y % 18 - 9
    radius, turn = np.hypot(dx, dy), np.arctan2(dy, dx) % (2 * np.pi)
    nucleus = 0.5 / (1 + np.exp((radius - 4) / 0.25))
    ring = od * np.exp(-0.5 * ((radius - 5.5) / 0.6) ** 2) * (turn <= 2 * np.pi * share)
    inside = cytoplasm_od / (1 + np.exp((4 - radius) / 0.25))
    h, d = (np.asarray(v) / np.linalg.norm(v) for v in (HEMATOXYLIN, DAB))
    density = nucleus[..., None] * h + (ring + inside)[..., None] * d
    light = np.array([238.0, 236.0, 240.0]) * 10**-density
    noise = np.random.default_rng(0).normal(0, 1.5, light.shape)
    return np.clip(np.round(light + noise), 0, 255).astype(np.uint8)


def read(rgb: npt.NDArray[np.uint8], mpp: float = MPP, marker: Marker = Marker.HER2) -> Counted:
    stain = estimate_stain([rgb], SETTINGS, mpp, membrane=True)
    return count_image(rgb, (mpp, mpp), marker, stain, SETTINGS)


@pytest.mark.parametrize(
    ("od", "share", "expected"),
    [(0.0, 0.0, 0), (0.3, 0.5, 1), (0.35, 1.0, 2), (1.0, 0.5, 2), (1.1, 1.0, 3)],
)
def test_completeness_and_intensity_make_the_class(od: float, share: float, expected: int) -> None:
    counted = read(drawn(od, share))
    assert len(counted.cells) == 36
    assert (counted.intensity == expected).mean() > 0.95
    completeness = counted.extra["membrane_completeness"]
    assert float(np.median(completeness)) == pytest.approx(share, abs=0.1)


def test_brown_cytoplasm_is_no_membrane() -> None:
    counted = read(drawn(0.0, 0.0, cytoplasm_od=0.35))
    assert (counted.intensity == 0).mean() > 0.95
    membranes = read(drawn(0.8, 1.0, cytoplasm_od=0.2))
    assert (membranes.intensity == 3).mean() > 0.95


def test_an_unsharp_scanner_reads_nearly_the_same_membranes() -> None:
    sharp = drawn(0.3, 1.0)
    soft = np.asarray(cv2.GaussianBlur(sharp, (0, 0), 0.4 / MPP), np.uint8)
    stain = estimate_stain([sharp], SETTINGS, MPP, membrane=True)
    readings = [count_image(rgb, (MPP, MPP), Marker.HER2, stain, SETTINGS) for rgb in (sharp, soft)]
    density, unsharp = (float(np.median(counted.cells.dab_od)) for counted in readings)
    assert unsharp == pytest.approx(density, rel=0.09)  # the peaks fall by 13 %
    assert all((counted.intensity == 2).mean() > 0.95 for counted in readings)


@pytest.mark.parametrize(
    ("n", "score"),
    [
        ((100, 0, 0, 0), "0"),
        ((90, 10, 0, 0), "0"),
        ((89, 11, 0, 0), "1+"),
        ((50, 40, 10, 0), "1+"),
        ((50, 39, 11, 0), "2+"),
        ((40, 40, 10, 10), "2+"),
        ((98, 0, 0, 2), "2+"),
        ((995, 0, 0, 5), "0"),
        ((80, 5, 4, 11), "3+"),
    ],
)
def test_the_score_follows_asco_cap(n: tuple[int, ...], score: str) -> None:
    value = read_her2(np.repeat(np.arange(4), n).astype(np.uint8))
    assert value.score == score
    assert value.needs_ish == (score == "2+")
    assert value.to_dict("")["note"] == (NEEDS_ISH if score == "2+" else None)


def test_without_cells_there_is_no_score_and_a_reason() -> None:
    value = read_her2(np.zeros(0, np.uint8)).to_dict("none")
    assert value["score"] is None
    assert value["reason"]
    assert read_tps(Cells.empty())["tps"] is None


def phantom(marker: str, side_px: int = 1000) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float64], Nuclei]:
    biology = PhantomBiology(mean_logit=0.0)
    settings = PhantomSettings(size_mm=0.8, ihc_mpp=0.3, marker=marker, seed=5, biology=biology)
    pair = make_pair("p001", 0, settings)
    x, y = (pair.ihc.size.width - side_px) // 2, (pair.ihc.size.height - side_px) // 2
    at = pair.truth.ihc_cells.xy - (x, y)
    inside = ((at >= 0) & (at < side_px)).all(axis=1)
    return pair.ihc.block(x, y, side_px, side_px), at[inside], pair.truth.ihc_nuclei.select(inside)


@pytest.mark.parametrize("marker", ["her2", "pdl1"])
def test_phantom_membranes_are_read(marker: str) -> None:
    rgb, xy, truth = phantom(marker)
    counted = read(rgb, 0.3, Marker(marker))
    i, j = matches(counted.cells.xy, xy, 4 / 0.3).T
    tumour = truth.tumour[j]
    ours, known = counted.intensity[i][tumour], truth.intensity[j][tumour]
    assert len(known) > 250
    assert len(np.unique(known)) == 4
    if marker == "her2":
        assert (ours == known).mean() > 0.9
    assert ((ours > 0) == (known > 0)).mean() > 0.97


def test_the_command_reads_her2_and_says_that_2_is_equivocal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:

    slide = tmp_path / "her2.png"
    slide.write_bytes(cv2.imencode(".png", drawn(0.35, 1.0)[:, :, ::-1])[1].tobytes())
    words = ["count", str(slide), "--marker", "her2", "--mpp", str(MPP), "--out", str(tmp_path / "out"), "-q"]
    assert _run(words) == 0
    summary = json.loads((tmp_path / "out/summary.json").read_text(encoding="utf-8"))
    assert summary["her2"]["score"] == "2+"
    assert summary["her2"]["note"] == NEEDS_ISH
    assert summary["compartment"] == "membrane"
    assert "allred" not in summary["tumour"]
    assert "ISH" in capsys.readouterr().out


@pytest.mark.parametrize("marker", ["her2", "pdl1"])
def test_a_nuclear_stain_counted_as_a_membrane_marker_gave_score_0_without_a_doubt(
    marker: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    field = stained_field(200.0, 0.5, style=FieldStyle(spacing_um=12.0))
    assert _count_as(marker, field.rgb, 0.5, tmp_path) == ["brown_nuclei"]
    assert "is the marker right?" in capsys.readouterr().out


def test_the_stain_of_a_pair_did_not_tell_of_brown_nuclei() -> None:
    """Only counts of whole slides did; labels of `build-records` were made from it in silence."""
    nuclear = stained_field(200.0, 0.5, style=FieldStyle(spacing_um=12.0)).rgb
    assert examine_stain([nuclear], SETTINGS, 0.5, membrane=True).brown_nuclei
    assert not examine_stain([nuclear], SETTINGS, 0.5).brown_nuclei
    assert not examine_stain([drawn(0.6, 1.0, 0.2)], SETTINGS, MPP, membrane=True).brown_nuclei


@pytest.mark.parametrize(("od", "share", "cytoplasm_od"), [(0.0, 0.0, 0.0), (0.3, 0.5, 0.0), (1.1, 1.0, 0.4)])
def test_a_membrane_stain_is_not_taken_for_a_nuclear_one(
    od: float, share: float, cytoplasm_od: float, tmp_path: Path
) -> None:
    assert _count_as("her2", drawn(od, share, cytoplasm_od), MPP, tmp_path) == []


def _count_as(marker: str, rgb: npt.NDArray[np.uint8], mpp: float, folder: Path) -> list[str]:
    """Which of the flags say that the marker is wrong."""
    cv2.imwrite(str(folder / "field.png"), rgb[:, :, ::-1])
    out = folder / "out"
    options = ["--marker", marker, "--mpp", f"{mpp}", "--out", str(out), "-q", "--jobs", "1"]
    assert _run(["count", str(folder / "field.png"), *options]) == 0
    summary = json.loads((out / "summary.json").read_text())
    return [flag for flag in summary["trust"]["flags"] if flag == "brown_nuclei"]
