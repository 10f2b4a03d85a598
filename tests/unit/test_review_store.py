"""review.sqlite: nothing is lost, nothing overwritten, whoever writes at the same time, whatever kills."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from virtual_stain.errors import InputError, OutputError
from virtual_stain.review.agreement import agreement, cohens_kappa
from virtual_stain.review.correction import Correction
from virtual_stain.review.settle import merge_verdicts, people_verdicts, settle
from virtual_stain.review.store import RepeatedRequestError, ReviewStore, clean_name
from virtual_stain.review.verdicts import Decision, Place, Verdict, read_verdicts

A, R, S = Decision.ACCEPT, Decision.REJECT, Decision.SKIP
ID = "a" * 32
FIX = Correction(removed=(1,))


def _verdict(col: int, decision: Decision = A, who: str = "A", label: str = ID, **more: object) -> Verdict:
    return Verdict(Place("p", col, 0), label, decision, who, **more)  # type: ignore[arg-type]


@pytest.fixture
def store(tmp_path: Path) -> ReviewStore:
    return ReviewStore(tmp_path / "review.sqlite")


def test_a_decision_comes_back_as_it_was(store: ReviewStore) -> None:
    verdict = _verdict(3, reason="überfärbt, „dick“", correction=FIX)
    before = time.time()
    (number,) = store.add([verdict])
    (found,) = store.decisions()
    assert (found.id, found.verdict, found.origin) == (number, verdict, "page")
    assert before - 1 < found.time_unix_s < time.time() + 1
    assert ReviewStore(store.path).decisions(Place("p", 3, 0)) == [found]
    assert store.decisions(Place("p", 4, 0)) == []


def test_no_row_is_ever_changed_or_removed(store: ReviewStore) -> None:
    store.add([_verdict(0)])
    db = sqlite3.connect(store.path)
    for statement in ("UPDATE decision SET verdict = 'reject'", "DELETE FROM decision"):
        with pytest.raises(sqlite3.IntegrityError, match="never"):
            db.execute(statement)
    db.close()


def test_undo_takes_back_the_own_latest_and_keeps_the_row(store: ReviewStore) -> None:
    store.add([_verdict(0, A)])
    store.add([_verdict(0, R)])
    store.add([_verdict(0, R, "B")])
    assert store.undo("A") == [_verdict(0, R)]
    assert [d.verdict.decision for d in store.decisions()] == [A, R]
    assert store.undo("A") == [_verdict(0, A)]
    assert store.undo("A") == []
    assert [d.verdict.reviewer for d in store.decisions()] == ["B"]
    assert store.last_id() == 5
    assert store.changed_places(3) == [Place("p", 0, 0)]


def test_a_batch_is_taken_back_as_a_whole(store: ReviewStore) -> None:
    store.add([_verdict(9)])
    store.add([_verdict(i) for i in range(4)], origin="batch")
    assert len(store.undo("A")) == 4
    assert [d.verdict.place.col for d in store.decisions()] == [9]


def test_imported_decisions_are_not_undone(store: ReviewStore) -> None:
    store.add([_verdict(0)], origin="csv")
    assert store.undo("A") == []


def test_another_decision_under_the_same_request_was_swallowed(store: ReviewStore) -> None:
    first = _verdict(0)
    store.add([first], request_id="x" * 8)
    for other in (
        _verdict(1),
        dataclasses.replace(first, reason="seen again"),
        dataclasses.replace(first, reviewer="B"),
    ):
        with pytest.raises(RepeatedRequestError):
            store.add([other], request_id="x" * 8)
    assert [d.verdict for d in store.decisions()] == [first]


def test_a_decision_sent_twice_is_written_once(store: ReviewStore) -> None:
    assert store.add([_verdict(0)], request_id="x" * 8) == store.add([_verdict(0)], request_id="x" * 8)
    assert store.last_id() == 1


def test_the_harshest_reader_counts_and_those_who_accept_have_to_mean_the_same_cells(store: ReviewStore) -> None:
    store.add([_verdict(0, A, "A", correction=FIX), _verdict(0, A, "B", correction=FIX), _verdict(0, S, "C")])
    store.add([_verdict(4, A, "A", correction=FIX), _verdict(4, A, "B")])
    store.add([_verdict(1, A, "A"), _verdict(1, R, "B", reason="fold"), _verdict(1, A, "C")])
    store.add([_verdict(2, S, "A"), _verdict(3, R, "A"), _verdict(3, A, "A")])
    settled = {place.col: s for (place, _), s in settle(store.decisions()).items()}
    assert (settled[0].verdict.reviewer, settled[0].verdict.correction, settled[0].disputed) == ("B", FIX, False)
    assert (settled[1].verdict.decision, settled[1].disputed) == (R, True)
    assert settled[2].verdict.decision is S
    assert (settled[4].verdict.decision, settled[4].verdict.correction, settled[4].disputed) == (S, None, True)
    assert settled[3].verdict.decision is A


def test_a_table_may_repeat_and_add_but_not_contradict(tmp_path: Path, store: ReviewStore) -> None:
    store.add([_verdict(0, correction=FIX), _verdict(1, R, reason="fold")])
    header = "pair,col,row,label_id,verdict,reviewer,reason\n"
    table = tmp_path / "v.csv"
    table.write_text(header + f"p,0,0,{ID},accept,A,\np,2,0,{ID},skip,B,\n")
    merged = people_verdicts(tmp_path, table)
    assert [(v.place.col, v.decision, v.correction) for v in merged] == [(0, A, FIX), (1, R, None), (2, S, None)]
    table.write_text(header + f"p,1,0,{ID},accept,A,\n")
    with pytest.raises(InputError, match=r"line 2: p 1,0: accept, but review\.sqlite says reject \(A\)"):
        people_verdicts(tmp_path, table)
    assert merge_verdicts([], read_verdicts(table), "t")[0].place.col == 1
    assert people_verdicts(tmp_path / "none", None) == ()


def test_corrected_cells_travel_in_an_eighth_column(tmp_path: Path) -> None:
    table = tmp_path / "v.csv"
    header = "pair,col,row,label_id,verdict,reviewer,reason,correction\n"
    table.write_text(header + f'p,0,0,{ID},accept,A,,"{{""removed"":[1]}}"\np,1,0,{ID},accept,A,,\n')
    assert [v.correction for v in read_verdicts(table)] == [FIX, None]
    table.write_text(header + f'p,0,0,{ID},reject,A,x,"{{""removed"":[1]}}"\np,1,0,{ID},accept,A,,nonsense\n')
    with pytest.raises(InputError, match="only where the verdict is accept") as caught:
        read_verdicts(table)
    assert "line 3: correction: expected JSON" in str(caught.value)


def test_kappa_is_cohens() -> None:
    # Cohen's own kind of table: 20 yes/yes, 5 yes/no, 10 no/yes, 15 no/no → (0.7 − 0.5) / 0.5
    words = [(True, True)] * 20 + [(True, False)] * 5 + [(False, True)] * 10 + [(False, False)] * 15
    assert cohens_kappa(words) == pytest.approx(0.4)
    assert cohens_kappa([(True, True)] * 3) is None
    assert cohens_kappa([]) is None


def test_agreement_on_shared_tiles(store: ReviewStore) -> None:
    store.add([_verdict(i, A, "B") for i in range(3)] + [_verdict(3, R, "B"), _verdict(4, S, "B"), _verdict(8, A, "B")])
    store.add([_verdict(0, A, "A"), _verdict(1, A, "A", correction=FIX), _verdict(2, R, "A"), _verdict(3, R, "A")])
    store.add([_verdict(4, A, "A")])
    (found,) = agreement(store.decisions(), lambda v: 0.5 if v.correction is None else 0.4)
    assert (found.first, found.second, found.n_shared, found.n_equal) == ("A", "B", 4, 3)
    assert found.kappa == pytest.approx((0.75 - 0.5) / 0.5)
    assert found.n_ratios == 2
    assert found.mean_difference == pytest.approx(-0.05)
    spread = 1.96 * 0.1 / 2**0.5
    assert found.limits_of_agreement == pytest.approx((-0.05 - spread, -0.05 + spread))


def test_a_name_has_one_spelling() -> None:
    assert clean_name("  Dr.  Mu\u0308ller ") == "Dr. M\u00fcller"
    for bad in ("", "  ", "a\x00b", "x" * 101):
        with pytest.raises(ValueError, match="reviewer"):
            clean_name(bad)


def test_foreign_and_unwritable_files_are_told(tmp_path: Path) -> None:
    (tmp_path / "x.sqlite").write_text("not a database, by far not a database at all" * 30)
    with pytest.raises(InputError, match="expected verdicts"):
        ReviewStore(tmp_path / "x.sqlite")
    with pytest.raises(OutputError, match="cannot be"):
        ReviewStore(tmp_path / "no folder" / "x.sqlite")
    with pytest.raises(InputError, match="no such file"):
        ReviewStore(tmp_path / "y.sqlite", create=False)
    db = sqlite3.connect(tmp_path / "z.sqlite")
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(InputError, match="version 99"):
        ReviewStore(tmp_path / "z.sqlite")


def _write_many(path: str, who: str, n: int) -> None:
    store = ReviewStore(Path(path))
    for i in range(n):
        store.add([_verdict(i, R if i % 3 == 0 else A, who, reason="x")])


def test_two_reviewers_write_200_each_at_the_same_time(tmp_path: Path) -> None:
    path = tmp_path / "review.sqlite"
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_many, args=(str(path), who, 200)) for who in ("A", "B")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)
        assert writer.exitcode == 0
    found = ReviewStore(path).decisions()
    assert sorted((d.verdict.reviewer, d.verdict.place.col) for d in found) == [
        (w, i) for w in "AB" for i in range(200)
    ]


def test_a_database_that_another_process_makes_at_the_same_time_is_waited_for(tmp_path: Path) -> None:
    """SQLite refuses to change the journal at once while anybody reads, whatever its timeout: a new review failed."""
    path = tmp_path / "review.sqlite"
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("CREATE TABLE unrelated (x)")
    other.execute("BEGIN IMMEDIATE")
    end = threading.Timer(0.4, lambda: other.execute("COMMIT"))
    end.start()
    ReviewStore(path).add([_verdict(1, A, "A")])
    end.join()
    other.close()
    assert len(ReviewStore(path).decisions()) == 1


_WRITER = """
import sys
from pathlib import Path
from virtual_stain.review.store import ReviewStore
from virtual_stain.review.verdicts import Decision, Place, Verdict
store = ReviewStore(Path(sys.argv[1]))
for i in range(100000):
    store.add([Verdict(Place("p", i, 0), "a" * 32, Decision.ACCEPT, "A")])
    print(i, flush=True)
"""


def test_a_kill_loses_no_decision_that_was_answered(tmp_path: Path) -> None:
    path = tmp_path / "review.sqlite"
    writer = subprocess.Popen([sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    answered = [int(writer.stdout.readline()) for _ in range(40)][-1]
    os.kill(writer.pid, signal.SIGKILL)
    rest = [int(line) for line in writer.communicate()[0].split()]
    answered = max([answered, *rest])
    cols = [d.verdict.place.col for d in ReviewStore(path).decisions()]
    assert cols == list(range(len(cols)))
    assert len(cols) >= answered + 1
