"""The documentation as a site: it builds without a dead link, and what is written by a program is current."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tools.sentence_length import mean_words, sentences
from virtual_stain.config import load_config

ROOT = Path(__file__).parents[2]
TUTORIAL = ROOT / "docs" / "tutorial.md"
PLAIN_ENGLISH = [
    "training.md", "performance.md", "records.md", "phantoms.md", "coordinates.md", "panel.md", "glossary.md",
    "serving.md", "dependencies.md", "index.md", "tutorial.md", "counting.md", "registration.md", "scoring.md",
    "evaluation.md", "review.md", "serve.md", "cli.md", "formats.md", "architecture.md", "schemas.md",
    *sorted(p.relative_to(ROOT / "docs").as_posix() for place in ("adr", "howto", "reference", "results")
            for p in (ROOT / "docs" / place).glob("*.md")),
]  # fmt: skip
"""Pages whose sentences are held short; a page that is rewritten is added."""


def test_the_references_that_the_program_writes_are_current():
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "write_reference.py", "--check"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, "python tools/write_reference.py writes them"


def test_the_site_builds_and_no_link_leads_nowhere(tmp_path):
    pytest.importorskip("mkdocs")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path / "site"],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "reference" / "configuration.html").is_file()


def test_every_page_has_its_place_in_the_navigation():
    text = (ROOT / "mkdocs.yml").read_text()
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert pages == set(re.findall(r"[\w/.-]+\.md", text))


@pytest.mark.parametrize("page", PLAIN_ENGLISH)
def test_sentences_are_short(page):
    assert mean_words((ROOT / "docs" / page).read_text()) <= 20


def test_sentences_are_counted_without_code_tables_and_headings():
    text = (
        "# A heading of many words\n\nOne two three. `vstain fit` four\nfive?\n\n```\ncode code. Code\n```\n"
        "| a table | of words |\n\n    a formula here\n\n"
        "- Item one [of a link](page.md#part)\n  goes on.\n- Item – two\n"
    )
    found = [(sentence.line, sentence.words) for sentence in sentences(text)]
    assert found == [(3, 3), (3, 4), (13, 7), (15, 2)]


def test_settings_in_public_docstrings_exist():
    for path in (ROOT / "virtual_stain" / "api").glob("*.py"):
        for name, value in re.findall(r'`\{"([\w.]+)": ([^}]+)\}`', path.read_text()):
            section, _, key = name.partition(".")
            assert str(load_config(None, [f"{name}={value}"]).to_dict()[section][key]) == value.strip('"')


MOST_FILES = {
    "slide → report": 10,
    "pair → shard": 9,
    "cell → label of a crop": 11,
    "verdict → record": 9,
    "number in TOML → its use": 5,
}


@pytest.mark.parametrize("walk", MOST_FILES)
def test_a_walk_through_the_code_stays_short_and_names_files_that_know_each_other(walk):
    architecture = (ROOT / "docs" / "architecture.md").read_text()
    [row] = re.findall(rf"^\| {re.escape(walk)} \| (.*) \|$", architecture, re.M)
    for part in row.split("; "):
        files = re.findall(r"`([\w/]+\.(?:py|js))`", part)
        assert 3 <= len(files) <= MOST_FILES[walk]
        texts = {name: (ROOT / "virtual_stain" / name).read_text() for name in files}
        modules = {name: f"virtual_stain.{name.removesuffix('.py').replace('/', '.')} import" for name in files}
        for name in files:
            others = [other for other in files if other != name]
            linked = any(modules[name] in texts[other] or modules[other] in texts[name] for other in others)
            package = name.rpartition("/")[0].replace("/", ".")  # from virtual_stain.config import …
            by_package = any(f"virtual_stain.{package} import" in texts[other] for other in others)
            assert linked or by_package or name.endswith(".js"), f"{walk}: nothing on the walk knows {name}"


@pytest.mark.slow
@pytest.mark.timeout(3600)  # ten minutes are too few on a loaded machine
def test_the_tutorial_runs_as_it_is_written(tmp_path):
    blocks = re.findall(r"```sh\n(.*?)```", TUTORIAL.read_text(), re.S)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for line in "".join(blocks).splitlines():
        done = subprocess.run(
            line, shell=True, cwd=tmp_path, capture_output=True, text=True,
            env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    report = json.loads((tmp_path / "lab" / "scored" / "p002_he.report.json").read_text())
    assert 0 < report["readings"]["ki67"]["global_ratio"] < 1
    [script] = re.findall(r"```python\n(.*?)```", TUTORIAL.read_text(), re.S)
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert re.match(r"counted \d", done.stdout), done.stderr


@pytest.mark.slow
@pytest.mark.timeout(3600)  # ten minutes are too few on a loaded machine
def test_the_example_notebook_runs(tmp_path, monkeypatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(ROOT / "examples" / "from_two_slides_to_a_heat_map.ipynb", as_version=4)
    done = nbclient.NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in done.cells for output in cell.get("outputs", ())]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 4  # pair, cells, tiles, heat map
