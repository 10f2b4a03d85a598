"""`vstain register` and `vstain warp` as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest
from click.testing import CliRunner

from tests.fixtures.registration import ToyPair, toy_pair, toy_transform, write_image
from virtual_stain.cli.main import _run
from virtual_stain.cli.warp import command as warp_command
from virtual_stain.registration.store import read_registration
from virtual_stain.workflows import register_files


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> ToyPair:
    return toy_pair(tmp_path_factory.mktemp("Präparat 7"), toy_transform(63, elastic_px=3.0))


@pytest.fixture(scope="module")
def registered(pair: ToyPair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "ein Paar µm"
    assert _run(arguments(pair, out)) == 0
    return out


def arguments(pair: ToyPair, out: Path, *more: str) -> list[str]:
    mpp = ["--mpp-he", str(pair.he_mpp), "--mpp-ihc", str(pair.ihc_mpp)]
    return ["register", str(pair.he), str(pair.ihc), "--out", str(out), "-q", *mpp, *more]


def test_all_files_are_written(registered: Path) -> None:
    names = {p.name for p in registered.iterdir() if not p.name.startswith(".")}
    assert names == {"registration.json", "registration.h5", "overlay.jpg", "registration.html", "run.json"}
    assert read_registration(registered).usable
    overlay = cv2.imread(str(registered / "overlay.jpg"))
    assert overlay is not None
    assert min(overlay.shape[:2]) > 200
    run = json.loads((registered / "run.json").read_text(encoding="utf-8"))
    assert len(run["inputs"]) == 2
    assert run["config"]["registration"]["accept_median_um"] == 30.0


def test_same_pair_again_gives_the_same_bytes(
    pair: ToyPair, registered: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("registration.json", "registration.h5", "overlay.jpg", "registration.html")
    before = [(registered / n).read_bytes() for n in names]
    assert _run(arguments(pair, registered, "--force")) == 0
    assert [(registered / n).read_bytes() for n in names] == before
    assert "verdict: accept" in capsys.readouterr().out


def test_finished_pair_is_kept_unless_a_file_is_missing(
    pair: ToyPair, registered: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    real = register_files.register_pair
    monkeypatch.setattr(register_files, "register_pair", lambda *a: calls.append(1) or real(*a))
    assert _run(arguments(pair, registered)) == 0
    assert calls == []
    (registered / "overlay.jpg").unlink()
    assert _run(arguments(pair, registered)) == 0
    assert calls == []  # the page and its picture are drawn of the registration that is there
    assert (registered / "overlay.jpg").exists()
    (registered / "registration.h5").unlink()
    assert _run(arguments(pair, registered)) == 0
    assert calls == [1]
    assert (registered / "registration.h5").exists()


def test_page_shows_what_is_told(registered: Path) -> None:
    page = (registered / "registration.html").read_text(encoding="utf-8")
    document = json.loads((registered / "registration.json").read_text(encoding="utf-8"))
    assert f"median {document['error_median_um']:.1f} µm" in page
    assert page.count("data:image/") == 2 + 3  # overlay, maps, the three worst windows
    assert "<script" not in page


def test_one_file_is_neither_pair_nor_table(pair: ToyPair, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["register", str(pair.he), "--out", str(tmp_path / "a"), "-q"]) == 3
    assert "two slides" in capsys.readouterr().err
    assert _run(["register", "a", "b", "c", "--out", str(tmp_path / "a")]) == 2


def test_folder_of_another_pair_is_not_overwritten(
    pair: ToyPair, registered: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (registered / "registration.json").read_bytes()
    swapped = ToyPair(pair.ihc, pair.he, pair.transform, pair.ihc_mpp, pair.he_mpp)
    assert _run(arguments(swapped, registered)) == 3
    assert "other slides" in capsys.readouterr().err
    assert (registered / "registration.json").read_bytes() == before


def test_rejected_pair_is_written_and_exits_3(
    pair: ToyPair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = toy_pair(tmp_path, toy_transform(10), seed=30)
    mixed = ToyPair(pair.he, other.ihc, pair.transform, 4.0, 4.0)
    assert _run(arguments(mixed, tmp_path / "out")) == 3
    assert "rejected" in capsys.readouterr().err
    document = json.loads((tmp_path / "out" / "registration.json").read_text(encoding="utf-8"))
    assert document["verdict"] == "reject"
    assert document["flags"]
    assert (tmp_path / "out" / "overlay.jpg").exists()
    assert (tmp_path / "out" / "registration.h5").exists()


def test_unrelated_slides_without_pixel_sizes_got_an_aligned_slide_and_exit_0(
    pair: ToyPair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other, out = toy_pair(tmp_path, toy_transform(10), seed=30), tmp_path / "out"
    assert _run(["register", str(pair.he), str(other.ihc), "--out", str(out), "--aligned", "-q"]) == 3
    assert "verdict: reject" in capsys.readouterr().out
    assert not (out / "aligned.ome.tif").exists()
    (tmp_path / "p.csv").write_text("x,y\n1,2\n", encoding="utf-8")
    assert _run(["warp", str(out), str(tmp_path / "p.csv"), "-o", str(tmp_path / "q.csv"), "-q"]) == 3
    assert "rejected" in capsys.readouterr().err
    assert not (tmp_path / "q.csv").exists()


def test_an_aligned_slide_of_an_earlier_registration_was_left_beside_the_new_one(
    pair: ToyPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, calls = tmp_path / "out", []
    aligned, real = out / "aligned.ome.tif", register_files.write_aligned
    monkeypatch.setattr(register_files, "write_aligned", lambda *a, **k: calls.append(1) or real(*a, **k))
    assert _run(arguments(pair, out, "--aligned")) == 0
    first = aligned.read_bytes()
    assert _run(arguments(pair, out, "--aligned")) == 0
    assert _run(arguments(pair, out)) == 0  # the same registration, and so the same picture
    assert (calls, aligned.read_bytes()) == ([1], first)
    assert _run(arguments(pair, out, "--aligned-mpp", "8")) == 0
    assert len(calls) == 2
    aligned.write_bytes(b"changed")
    assert _run(arguments(pair, out, "--aligned-mpp", "8")) == 0
    assert len(calls) == 3
    assert aligned.stat().st_size > 1000
    assert _run(arguments(pair, out, "--set", "registration.smoothness=8")) == 0
    assert not aligned.exists()


@pytest.mark.parametrize("mpp", ["0", "nan", "-1", "1e9"])
def test_an_absurd_pixel_size_of_the_aligned_slide_is_refused(
    pair: ToyPair, tmp_path: Path, mpp: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(arguments(pair, tmp_path / "out", "--aligned-mpp", mpp)) == 2
    assert "--aligned-mpp: expected" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_page_of_a_rejected_pair_showed_no_places(pair: ToyPair, tmp_path: Path) -> None:
    other = toy_pair(tmp_path, toy_transform(10), seed=30)
    assert _run(["register", str(pair.he), str(other.ihc), "--out", str(tmp_path / "out"), "-q"]) == 3
    page = (tmp_path / "out" / "registration.html").read_text(encoding="utf-8")
    assert page.count("data:image/") == 2 + 3
    assert "nothing is measured there" in page
    assert '<p class="verdict reject">' in page
    assert "10^-0" not in page
    assert "stated median unknown" in page


def test_missing_truncated_and_unwritable(pair: ToyPair, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["register", str(tmp_path / "no.png"), str(pair.ihc), "--out", str(tmp_path / "a"), "-q"]) == 3
    assert "no.png" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()

    cut = tmp_path / "cut.png"
    cut.write_bytes(pair.he.read_bytes()[:20_000])
    broken = ToyPair(cut, pair.ihc, pair.transform, 4.0, 4.0)
    assert _run(arguments(broken, tmp_path / "b")) == 3
    assert "cut.png" in capsys.readouterr().err
    assert not (tmp_path / "b" / "registration.json").exists()

    (tmp_path / "file").write_text("")
    assert _run(arguments(pair, tmp_path / "file" / "below")) == 3
    assert "cannot be written" in capsys.readouterr().err


def test_blank_slide(pair: ToyPair, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import numpy as np

    blank = write_image(tmp_path / "blank.png", np.full((300, 300, 3), 244, np.uint8))
    assert _run(arguments(ToyPair(pair.he, blank, pair.transform, 4.0, 4.0), tmp_path / "out")) == 3
    assert "no tissue" in capsys.readouterr().err


def test_warp_there_and_back(registered: Path, tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("x,y,k\n200,150,a\n300.5,250.25,b\n", encoding="utf-8")
    assert _run(["warp", str(registered), str(tmp_path / "p.csv"), "-o", str(tmp_path / "q.csv"), "-q"]) == 0
    back = ["warp", str(registered / "registration.h5"), str(tmp_path / "q.csv"), "-o", str(tmp_path / "r.csv")]
    assert _run([*back, "--inverse", "-q"]) == 0
    rows = (tmp_path / "r.csv").read_text(encoding="utf-8").splitlines()
    assert rows[0] == "x,y,k"
    x, y, name = rows[2].split(",")
    assert abs(float(x) - 300.5) < 0.01
    assert abs(float(y) - 250.25) < 0.01
    assert name == "b"


def test_warp_with_the_json_alone_is_exit_3(
    registered: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "registration.json").write_bytes((registered / "registration.json").read_bytes())
    (tmp_path / "p.csv").write_text("x,y\n1,2\n", encoding="utf-8")
    out = tmp_path / "q.csv"
    assert _run(["warp", str(tmp_path / "registration.json"), str(tmp_path / "p.csv"), "-o", str(out), "-q"]) == 3
    assert "registration.h5" in capsys.readouterr().err
    assert not out.exists()


def test_warp_geojson_origin_is_a_choice(tmp_path: Path) -> None:
    result = CliRunner().invoke(warp_command, ["a", "b", "-o", "c", "--geojson-origin", "moon"])
    assert result.exit_code == 2
