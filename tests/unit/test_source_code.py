"""Which code a stage depends on, and what changes its hash."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.source import CODE, COMMENT, ROOT, copy_sources
from virtual_stain.source_code import NEUTRAL, SourceTree

STAGES = (
    "workflows.pair_registration",
    "workflows.pair_stain",
    "workflows.part_job",
    "workflows.packing",
    "workflows.register_page",
    "workflows.aligned_slide",
    "workflows.count_slide",
    "workflows.score_slides",
    "training.fit",
    "phantom.cohort",
)


@pytest.fixture(scope="module")
def tree() -> SourceTree:
    return SourceTree(ROOT)


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    return copy_sources(tmp_path)


def written(root: Path, **files: str) -> SourceTree:
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("/init/", "__init__")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".py").write_text(text, encoding="utf-8")
    return SourceTree(root)


def test_the_closure_follows_imports_wherever_they_stand(tmp_path: Path) -> None:
    sources = written(
        tmp_path,
        top="from virtual_stain.a import f\nimport virtual_stain.b\nimport numpy\n",
        a="def f():\n    if 1:\n        from virtual_stain import c\n",
        b="try:\n    pass\nexcept OSError:\n    from .d import x\n",
        c="from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from virtual_stain.typed import T\n",
        d="x = 1\n",
        typed="T = int\n",
        other="",
    )
    assert sources.closure("top") == {"top", "a", "b", "c", "d"}


def test_the_closure_goes_through_a_package_that_passes_names_on(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "__init__.py").write_text("from virtual_stain.p.a import A\nfrom virtual_stain.p.b import B\n")
    sources = written(tmp_path, top="from virtual_stain.p import A\n", p__a="A = 1\n", p__b="B = 1\n")
    assert sources.closure("top") == {"top", "p.a"}


def test_a_circle_of_imports_ends(tmp_path: Path) -> None:
    sources = written(tmp_path, a="from virtual_stain import b\n", b="from virtual_stain import a\n")
    assert sources.closure("a") == sources.closure("b") == {"a", "b"}


def test_a_module_that_is_not_there_is_named(tree: SourceTree) -> None:
    with pytest.raises(KeyError, match="no_such"):
        tree.sha256("no_such")


_LOADED = """
import importlib, sys
importlib.import_module("virtual_stain." + sys.argv[1])
print(*sorted(m.removeprefix("virtual_stain.") for m in sys.modules if m.startswith("virtual_stain.")))
"""


@pytest.mark.parametrize("stage", ["workflows.part_job", "workflows.score_slides", "workflows.count_slide"])
def test_what_python_loads_for_a_stage_is_in_its_closure(tree: SourceTree, stage: str) -> None:
    """The lists by hand had drifted: registration without geometry, scoring without her2 and value_text."""
    command = [sys.executable, "-c", _LOADED, stage]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT.parent)
    loaded = {name for name in done.stdout.split() if not (ROOT / name.replace(".", "/")).is_dir()}
    # Python runs all of a package's `__init__`, also what it passes on for others: config's sections, and theirs
    others = set(NEUTRAL) | {"markers", "remote"} | {f"config.{p.stem}" for p in (ROOT / "config").glob("*.py")}
    assert len(loaded) > 40
    assert loaded - others <= tree.closure(stage)


@pytest.mark.parametrize(
    ("stage", "inside"),
    [
        ("workflows.pair_registration", "geometry registration.search slides.tissue_mask"),
        ("workflows.part_job", "geometry counting.tumour labels.label registration.transform geojson"),
        ("workflows.packing", "records.schema review.correction labels.label workflows.corrections records.write"),
        ("workflows.count_slide", "her2 markers geometry counting.stain_plot workflows.pyramid"),
        ("workflows.score_slides", "her2 markers value_text intervals scoring.local report.heatmap tiles"),
        ("training.fit", "model.build dataset.augment training.loop records.read"),
    ],
)
def test_what_a_stage_computes_with_is_in_its_closure(tree: SourceTree, stage: str, inside: str) -> None:
    assert set(inside.split()) <= tree.closure(stage)


@pytest.mark.parametrize(
    ("stage", "outside"),
    [
        ("workflows.pair_registration", "counting. records. training. web. review. cli."),
        ("workflows.pair_stain", "registration. labels. records. training. web. report."),
        ("workflows.part_job", "registration.search records. training. web. report. review."),
        ("workflows.packing", "registration. training. web. report."),
        ("workflows.count_slide", "registration. records. training. web. report."),
        ("workflows.score_slides", "registration. counting. records. training. web."),
        ("training.fit", "registration. web. report. workflows."),
    ],
)
def test_what_a_stage_does_not_use_is_outside(tree: SourceTree, stage: str, outside: str) -> None:
    closure = tree.closure(stage)
    assert [n for n in closure if n.startswith(tuple(outside.split()))] == []


def test_comments_docstrings_and_layout_do_not_count(copied: Path) -> None:
    before = SourceTree(copied).sha256("workflows.count_slide")
    path = copied / "geometry.py"
    text = path.read_text(encoding="utf-8")
    path.write_text("# first\n\n" + text.replace('    """', '    """Other words. ', 1) + COMMENT, encoding="utf-8")
    assert SourceTree(copied).sha256("workflows.count_slide") == before
    path.write_text(text + CODE, encoding="utf-8")
    assert SourceTree(copied).sha256("workflows.count_slide") != before


@pytest.mark.parametrize(
    ("stage", "file"),
    [
        ("workflows.register_page", "workflows/templates/registration.html"),
        ("workflows.score_slides", "report/templates/report.html"),
        ("workflows.score_slides", "templates/page.css"),
    ],
)
def test_templates_count_for_the_page_that_is_made_of_them(copied: Path, stage: str, file: str) -> None:
    """The hash of a folder of templates had been that of its Python files: of nothing."""
    before = {name: SourceTree(copied).sha256(name) for name in STAGES}
    path = copied / file
    path.write_bytes(path.read_bytes() + b"\n")
    changed = {name for name in STAGES if SourceTree(copied).sha256(name) != before[name]}
    assert stage in changed
    assert not changed & {"workflows.pair_registration", "workflows.part_job", "workflows.packing", "training.fit"}


def test_neutral_modules_exist_and_each_has_a_reason() -> None:
    for name, reason in NEUTRAL.items():
        assert (ROOT / (name.replace(".", "/") + ".py")).is_file()
        assert len(reason) > 10
