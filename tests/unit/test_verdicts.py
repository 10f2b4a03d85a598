from __future__ import annotations

from pathlib import Path

import pytest

from virtual_stain.errors import InputError
from virtual_stain.review.gate import Gate, Passed
from virtual_stain.review.verdicts import (
    Candidate,
    Decision,
    Place,
    Verdict,
    apply_verdicts,
    read_stale,
    read_verdicts,
    write_template,
)

HEADER = "pair,col,row,label_id,verdict,reviewer,reason"
A, B, C = "a" * 32, "b" * 32, "c" * 32


def _write(folder: Path, *rows: str, name: str = "verdicts.csv") -> Path:
    path = folder / name
    path.write_text("\n".join([HEADER, *rows]) + "\n", encoding="utf-8")
    return path


def test_filled_rows_are_read_and_empty_ones_are_still_to_do(tmp_path: Path) -> None:
    path = _write(tmp_path, f"p,0,1,{A},Accept,dr. é,", f"p,1,1,{B},,,", "", f'p,2,1,{C},reject,x,"folds, pen"')
    assert read_verdicts(path) == (
        Verdict(Place("p", 0, 1), A, Decision.ACCEPT, "dr. é", "", 2),
        Verdict(Place("p", 2, 1), C, Decision.REJECT, "x", "folds, pen", 5),
    )


def test_all_bad_rows_are_reported_at_once(tmp_path: Path) -> None:
    path = _write(
        tmp_path,
        f"p,0,1,{A},yes,x,",
        f"p,zero,1,{A},accept,x,",
        "p,0,1,123,accept,x,",
        f"p,0,1,{A},accept,,",
        f"p,0,2,{B},accept,x,",
        f"p,0,2,{B},reject,y,",
    )
    with pytest.raises(InputError) as caught:
        read_verdicts(path)
    text = str(caught.value)
    for expected in (
        "line 2: verdict: expected accept",
        "line 3: col: expected a whole number",
        "line 4: label_id: expected 32 hex",
        "line 5: reviewer is empty",
        "line 7: reject, but line 6 says accept",
    ):
        assert expected in text


def test_a_table_without_the_columns_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "v.csv"
    path.write_text("pair,col,row,verdict\n")
    with pytest.raises(InputError, match="Missing: label_id, reviewer"):
        read_verdicts(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_verdicts(tmp_path / "none.csv")


def test_a_stale_verdict_is_reported_and_not_applied() -> None:
    now = [Candidate(Place("p", 0, 0), A), Candidate(Place("p", 1, 0), B)]
    good = Verdict(Place("p", 0, 0), A, Decision.ACCEPT, "x")
    changed = Verdict(Place("p", 1, 0), C, Decision.ACCEPT, "x")
    gone = Verdict(Place("q", 0, 0), A, Decision.ACCEPT, "x")
    review = apply_verdicts([good, changed, gone], now)
    assert dict(review.applied) == {good.place: good}
    assert review.stale == (changed, gone)
    assert (review.n_for("p"), review.n_for("q")) == (1, 0)


def test_a_verdict_on_the_old_and_on_the_new_label_of_a_tile_may_stand_in_one_file(tmp_path: Path) -> None:
    path = _write(tmp_path, f"p,0,0,{A},reject,x,", f"p,0,0,{B},accept,x,")
    review = apply_verdicts(read_verdicts(path), [Candidate(Place("p", 0, 0), B)])
    assert review.applied[Place("p", 0, 0)].decision is Decision.ACCEPT
    assert len(review.stale) == 1


def test_the_template_lists_every_tile_and_keeps_what_was_decided(tmp_path: Path) -> None:
    now = [Candidate(Place("p", 0, 0), A), Candidate(Place("p", 1, 0), B)]
    verdict = Verdict(Place("p", 1, 0), B, Decision.SKIP, "x", "out, of focus")
    path = write_template(tmp_path, now, apply_verdicts([verdict], now))
    assert path.read_text() == f'{HEADER}\np,0,0,{A},,,\np,1,0,{B},skip,x,"out, of focus"\n'
    assert [v.decision for v in read_verdicts(path)] == [Decision.SKIP]


def test_a_filled_template_is_never_overwritten(tmp_path: Path) -> None:
    now = [Candidate(Place("p", 0, 0), A)]
    filled = _write(tmp_path, f"p,0,0,{A},accept,x,", name="review-template.csv").read_text()
    write_template(tmp_path, now, apply_verdicts([], now))
    assert (tmp_path / "review-template.1.csv").read_text() == filled
    again = read_verdicts(tmp_path / "review-template.1.csv")
    write_template(tmp_path, now, apply_verdicts(again, now))
    assert not (tmp_path / "review-template.2.csv").exists()


def test_a_template_quotes_what_a_spreadsheet_would_run_and_reads_it_back(tmp_path: Path) -> None:
    path = _write(tmp_path, f"p,0,1,{A},reject,'=x,'@SUM(1)")
    (verdict,) = read_verdicts(path)
    assert (verdict.reviewer, verdict.reason) == ("=x", "@SUM(1)")
    candidates = [Candidate(Place("p", 0, 1), A)]
    written = write_template(tmp_path, candidates, apply_verdicts([verdict], candidates))
    assert "'=x,'@SUM(1)" in written.read_text(encoding="utf-8")
    (again,) = read_verdicts(written)
    assert (again.reviewer, again.reason) == ("=x", "@SUM(1)")


def test_stale_verdicts_are_written_beside(tmp_path: Path) -> None:
    now = [Candidate(Place("p", 0, 0), A)]
    old = Verdict(Place("p", 0, 0), B, Decision.ACCEPT, "x")
    write_template(tmp_path, now, apply_verdicts([old], now))
    assert [v.label_id for v in read_verdicts(tmp_path / "review-stale.csv")] == [B]


def test_stale_verdicts_were_unlinked_by_the_next_run(tmp_path: Path) -> None:
    now = [Candidate(Place("p", 0, 0), A)]
    old = Verdict(Place("p", 0, 0), B, Decision.ACCEPT, "x")
    older = Verdict(Place("p", 0, 0), B, Decision.REJECT, "y")
    for given in ([old], [], [old], [older], [older, old]):
        write_template(tmp_path, now, apply_verdicts(given, now, earlier=read_stale(tmp_path)))
    assert [v.reviewer for v in read_stale(tmp_path)] == ["x", "y"]


def test_an_unreadable_list_of_stale_verdicts_is_put_aside(tmp_path: Path) -> None:
    _write(tmp_path, f"p,0,0,{A},perhaps,x,", name="review-stale.csv")
    assert read_stale(tmp_path) == ()
    assert "perhaps" in (tmp_path / "review-stale.1.csv").read_text()


def test_verdicts_of_a_pair_that_failed_in_this_run_were_lost_as_stale(tmp_path: Path) -> None:
    now = [Candidate(Place("p", 0, 0), A)]
    verdicts = read_verdicts(_write(tmp_path, f"q,0,0,{B},reject,x,", name="review-template.csv"))
    review = apply_verdicts(verdicts, now, failed={"q"})
    assert (dict(review.applied), review.stale, review.waiting) == ({}, (), verdicts)
    path = write_template(tmp_path, now, review)
    assert path.read_text() == f"{HEADER}\np,0,0,{A},,,\nq,0,0,{B},reject,x,\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["review-template.csv"]


@pytest.mark.parametrize("other", ["accept,y,", "reject,y,", "reject,x,pen"])
def test_a_filled_template_was_overwritten_by_another_verdict_on_the_same_tile(tmp_path: Path, other: str) -> None:
    now = [Candidate(Place("p", 0, 0), A)]
    filled = _write(tmp_path, f"p,0,0,{A},reject,x,", name="review-template.csv").read_text()
    verdicts = read_verdicts(_write(tmp_path, f"p,0,0,{A},{other}"))
    write_template(tmp_path, now, apply_verdicts(verdicts, now))
    assert (tmp_path / "review-template.1.csv").read_text() == filled


@pytest.mark.parametrize("since", ["this run", "an earlier run"])
def test_a_tile_with_a_stale_reject_or_skip_passed_under_the_waiver(since: str) -> None:
    places = {decision: Place("p", n, 0) for n, decision in enumerate(Decision)}
    now = [Candidate(place, A) for place in places.values()]
    stale = [Verdict(place, B, decision, "x") for decision, place in places.items()]
    review = apply_verdicts(stale, now) if since == "this run" else apply_verdicts([], now, earlier=stale)
    gate = Gate(review, accept_unreviewed=True, needs_person=False)
    assert [d for d, place in places.items() if gate.passes(place)] == [Decision.ACCEPT]
    anew = Verdict(places[Decision.REJECT], A, Decision.ACCEPT, "y")
    gate = Gate(apply_verdicts([anew], now, earlier=stale), accept_unreviewed=True, needs_person=False)
    assert gate.passes(anew.place) == Passed("accept", "y")
