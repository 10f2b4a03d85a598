"""`make demo` installs what the demo needs; the tools of the tests come with the other targets."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def _installed(folder: Path, target: str) -> list[str]:
    for name in ("Makefile", "setup.cfg", "constraints.txt"):
        if not (folder / name).exists():
            shutil.copy(ROOT / name, folder / name)
    done = subprocess.run(
        ["make", "--dry-run", target, "PYTHON=python3"], cwd=folder, capture_output=True, text=True, check=True
    )
    return [line.partition(" -e ")[2].partition("|")[0].strip() for line in done.stdout.splitlines() if " -e '" in line]


def test_the_demo_installed_the_tools_of_the_tests(tmp_path: Path) -> None:
    assert _installed(tmp_path, "demo") == ["'.'"]


@pytest.mark.parametrize("target", ["test", "lint", "docs"])
def test_what_needs_the_tools_installs_them(tmp_path: Path, target: str) -> None:
    assert _installed(tmp_path, target) == ["'.[dev,web]'"]


def test_an_environment_for_the_demo_is_none_for_the_tests_but_the_other_way_round(tmp_path: Path) -> None:
    _installed(tmp_path, "demo")
    stamps = tmp_path / ".venv"
    stamps.mkdir()
    (stamps / ".installed-demo").touch()
    assert _installed(tmp_path, "lint") == ["'.[dev,web]'"]
    (stamps / ".installed-demo").unlink()
    (stamps / ".installed").touch()
    done = subprocess.run(["make", "--dry-run", "demo"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "pip install" not in done.stdout
