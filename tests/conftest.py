"""What several kinds of tests share, made once a session."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from tests.fixtures.built import Built, built_once
from tests.fixtures.review import PhantomRecords, build_phantom_records


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Two phantom pairs and their records; copy the folder before writing to it, and set VSTAIN_PATIENT_KEY."""
    return built_once(tmp_path_factory)


@pytest.fixture(scope="session")
def phantom_records(built: Built, tmp_path_factory: pytest.TempPathFactory) -> PhantomRecords:
    """Two phantom pairs with all tiles built and nobody's verdict; copy the folder before writing to it.

    To build on, a test sets VSTAIN_PATIENT_KEY to its `key`: what lasts a session must not stay in the environment.
    """
    with pytest.MonkeyPatch.context() as patch:
        return build_phantom_records(built, tmp_path_factory.mktemp("phantom-records"), patch)


@pytest.fixture(autouse=True)
def no_global_seed_is_left() -> Iterator[None]:
    """A test that seeds TensorFlow for the whole process changes the order in which later ones draw."""
    yield
    if tensorflow := sys.modules.get("tensorflow"):
        tensorflow.random.set_seed(None)
