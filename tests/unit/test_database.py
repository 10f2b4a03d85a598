"""SQLite files from elsewhere: what they hold besides our tables is refused before it can act."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest

from virtual_stain.errors import InputError, VirtualStainError
from virtual_stain.review.store import ReviewStore
from virtual_stain.review.verdicts import Decision, Place, Verdict

VERDICT = Verdict(Place("p1", 0, 0), "a" * 32, Decision.ACCEPT, "me")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "review.sqlite"
    ReviewStore(path).add([VERDICT])
    return path


def _run(path: Path, *statements: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db:
        for statement in statements:
            db.execute(statement)
        db.commit()


def test_our_own_file_opens_again(store: Path) -> None:
    assert [d.verdict for d in ReviewStore(store).decisions()] == [VERDICT]
    assert len(ReviewStore(store, create=False).decisions()) == 1


@pytest.mark.parametrize(
    "statements",
    [
        ("CREATE TRIGGER x AFTER INSERT ON decision BEGIN INSERT INTO decision SELECT * FROM decision; END",),
        ("CREATE VIEW x AS SELECT * FROM decision",),
        ("DROP TRIGGER decision_is_kept",),
        ("DROP TRIGGER decision_is_final", "UPDATE decision SET verdict = 'reject'"),
        ("ALTER TABLE decision ADD COLUMN more TEXT",),
        ("PRAGMA user_version = 7",),
    ],
    ids=["trigger", "view", "no longer kept", "no longer final", "column", "version"],
)
@pytest.mark.parametrize("create", [True, False])
def test_a_database_with_another_schema_is_refused(store: Path, statements: tuple[str, ...], create: bool) -> None:
    _run(store, *statements)
    with pytest.raises(InputError, match="expected verdicts"):
        ReviewStore(store, create=create)


def test_a_damaged_page_is_told(store: Path) -> None:
    ReviewStore(store).add([Verdict(Place("p1", i, 0), "a" * 32, Decision.ACCEPT, "me") for i in range(500)])
    _run(store, "PRAGMA wal_checkpoint(TRUNCATE)")
    data = bytearray(store.read_bytes())
    for at in range(4096 + 200, len(data), 4096):
        data[at : at + 3000] = bytes(3000)
    store.write_bytes(data)
    with pytest.raises(VirtualStainError):
        ReviewStore(store)


def test_a_verdict_that_is_none_was_a_traceback(store: Path) -> None:
    data = store.read_bytes()
    _run(store, "PRAGMA journal_mode = DELETE")
    data = store.read_bytes()
    at = data.rindex(b"accept")
    store.write_bytes(data[:at] + b"aacept" + data[at + 6 :])
    with pytest.raises(VirtualStainError):
        ReviewStore(store, create=False).decisions()


def test_a_message_of_sqlite_that_quotes_damaged_text_was_a_traceback(store: Path) -> None:
    _run(store, "PRAGMA journal_mode = DELETE")
    data = store.read_bytes()
    at = data.index(b"decision_is_kept")
    store.write_bytes(data[:at] + b"\xb2" + data[at + 1 :])  # a name in the schema
    with pytest.raises(VirtualStainError):
        ReviewStore(store, create=False)
