"""What several kinds of tests share, made once a session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fixtures.review import PhantomRecords, build_phantom_records


@pytest.fixture(scope="session")
def phantom_records(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PhantomRecords]:
    """Two phantom pairs with all tiles built and nobody's verdict; copy the folder before writing to it."""
    with pytest.MonkeyPatch.context() as patch:
        yield build_phantom_records(tmp_path_factory.mktemp("phantom-records"), patch)
