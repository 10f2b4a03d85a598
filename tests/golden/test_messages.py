"""The likeliest mistakes, and what each is told: what was expected, what came, the command that mends it.

VSTAIN_WRITE_GOLDEN=1 pytest tests/golden/test_messages.py writes messages.txt anew; read the difference before it is
committed.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import pytest

from tests.fixtures.models import tissue_slide, write_tiny_bundle
from tests.fixtures.slides import write_tiled_tiff
from virtual_stain.cli import main as cli
from virtual_stain.config.phantom import settings_from_options
from virtual_stain.phantom.cohort import write_cohort

GOLDEN = Path(__file__).with_name("messages.txt")
_WRITE = "VSTAIN_WRITE_GOLDEN" in os.environ
_written: dict[str, str] = {}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the mistakes are made with."""
    folder = tmp_path_factory.mktemp("mistakes")
    write_cohort(folder / "phantom", settings_from_options({"pairs": 1, "size_mm": 0.8}), jobs=1)
    for side in ("he", "ihc"):
        (folder / "phantom" / "slides" / f"p001_{side}.tiff").rename(folder / f"p001_{side}.tiff")
    write_tiny_bundle(folder / "model")
    tissue_slide(folder / "slide.tiff")
    pixels = np.random.default_rng(0).integers(90, 240, (300, 300, 3), dtype=np.uint8)
    write_tiled_tiff(folder / "no-mpp.tiff", pixels, None)
    (folder / "empty").mkdir()
    (folder / "empty" / "notes.txt").write_text("no slide")
    (folder / "pending").mkdir()
    (folder / "pending" / "review-template.csv").write_text("pair,col,row,label_id,verdict,reviewer,reason\n")
    (folder / "old").mkdir()
    (folder / "old" / "manifest.json").write_text('{"schema_version": 0}')
    (folder / "PAIRS.csv").write_text("pair,patient,marker,he,icc\na,P1,ki67,p001_he.tiff,p001_ihc.tiff\n")
    (folder / "SWAPPED.csv").write_text("pair,patient,marker,he,ihc\na,P1,ki67,p001_ihc.tiff,p001_he.tiff\n")
    (folder / "unnamed").mkdir()
    for name in ("b7_he.tiff", "b7_p63.tiff"):
        (folder / "unnamed" / name).write_bytes(b"II*\0")
    return folder


MISTAKES: dict[str, tuple[int, list[str]]] = {
    "a path that is not there": (3, ["count", "slid.tiff", "--marker", "ki67", "--out", "n"]),
    "a swapped pair": (3, ["build-records", "SWAPPED.csv", "--out", "swapped", "--jobs", "1"]),
    "a slide without a pixel size": (3, ["score", "no-mpp.tiff", "--model", "model"]),
    "a marker that is none": (2, ["count", "p001_ihc.tiff", "--marker", "ki76", "--out", "m"]),
    "an IHC slide scored": (2, ["score", "p001_ihc.tiff", "--model", "model", "--out", "o"]),
    "an H&E slide counted": (3, ["count", "p001_he.tiff", "--marker", "ki67", "--out", "c"]),
    "records of an older version": (3, ["records", "verify", "old"]),
    "a decimal comma": (2, ["info", "slide.tiff", "--mpp", "0,25"]),
    "a pixel size out of range": (3, ["score", "slide.tiff", "--model", "model", "--mpp", "50"]),
    "an address without a scheme": (2, ["score", "slide.tiff", "--model", "host:8500/ki67"]),
    "a model that is not there": (5, ["score", "slide.tiff", "--model", "nosuch"]),
    "no model": (2, ["score", "slide.tiff"]),
    "a server with a model that is not there": (5, ["serve", "--root", ".", "--model", "nosuch", "--no-browser"]),
    "a folder without slides": (3, ["score", "empty", "--model", "model"]),
    "a configuration that is not there": (2, ["fit", "old", "--out", "r", "--config", "configs/ki67_finetune.toml"]),
    "a misspelt setting": (2, ["info", "slide.tiff", "--set", "tissue.overwiew_mpp=2"]),
    "training before the review": (4, ["fit", "pending", "--out", "r"]),
    "training on a folder without records": (3, ["fit", "empty", "--out", "r"]),
    "a misspelt column": (3, ["build-records", "PAIRS.csv", "--out", "o"]),
    "names that do not say the marker": (3, ["build-records", "unnamed", "--out", "o"]),
    "an extra that is not installed": (2, ["review", "old"]),
    "a system library that is missing": (2, ["info", "slide.tiff"]),
}


def _without_web(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "fastapi" else real(name, *more)
    )


def _without_library(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    @click.argument("slide")
    def broken(slide: str) -> None:
        raise ImportError("libGL.so.1: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(cli._LazyGroup, "get_command", lambda self, ctx, name: broken)


BROKEN: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "an extra that is not installed": _without_web,
    "a system library that is missing": _without_library,
}


def _golden() -> dict[str, str]:
    parts = re.split(r"^### (.*)\n", GOLDEN.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    return {name: text.strip() for name, text in zip(parts[::2], parts[1::2], strict=True)}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_with_the_way_out(
    name: str, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(here)
    monkeypatch.setenv("XDG_DATA_HOME", str(here / "no-data"))
    for variable in ("VSTAIN_MODEL", "VSTAIN_PATIENT_KEY"):
        monkeypatch.delenv(variable, raising=False)
    BROKEN.get(name, lambda _: None)(monkeypatch)
    code, arguments = MISTAKES[name]
    assert cli._run([*arguments, *([] if name in BROKEN else ["-q"])]) == code
    shown = capsys.readouterr().err
    root = Path(__file__).parents[2]
    for real, word in ((str(here), "HERE"), (sys.executable, "PYTHON"), (str(root), "SOURCE")):
        shown = shown.replace(real, word)
    shown = re.sub(r"pip install \S+ ?'?[^'\s]*\[web\]\S*", "pip install SOURCE[web]", shown).strip()
    if _WRITE:
        _written[name] = shown
        GOLDEN.write_text("".join(f"### {k}\n{v}\n\n" for k, v in _written.items()), encoding="utf-8")
        return
    assert shown == _golden()[name]


def test_every_message_says_what_was_expected_what_came_and_what_mends_it() -> None:
    golden = _golden()
    assert list(golden) == list(MISTAKES)
    for name, text in golden.items():
        assert "→" in text, f"{name}: no way out"
        assert "this is a bug" not in text
        assert "Traceback" not in text
