"""What the tests of `build-records` share beside the folder that is built once a session."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.fixtures.built import Built


@pytest.fixture
def key_of_built(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key by which the patients of `built` are known."""
    monkeypatch.setenv("VSTAIN_PATIENT_KEY", str(built.key))


@pytest.fixture
def copy(built: Built, tmp_path: Path) -> Path:
    """A folder with all the work done, to go on from."""
    return Path(shutil.copytree(built.out, tmp_path / "records"))
