"""Several people's decisions on one label → the one verdict that the records follow.

A label is only as good as its harshest reader: whoever rejects keeps the tile out, even where another accepts; both
are told apart as *disputed*. Those who accept have to mean the same cells: where their corrections differ the tile is
disputed as well and stays out, since nobody can tell whose ratio is right.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from virtual_stain.errors import InputError
from virtual_stain.review.store import DATABASE, ReviewStore, StoredDecision, standing
from virtual_stain.review.verdicts import Decision, Place, Verdict, read_verdicts

DIFFERENT_CELLS = "the readers' corrected cells differ"


@dataclass(frozen=True, slots=True)
class Settled:
    """What counts for one label."""

    verdict: Verdict
    disputed: bool
    """Somebody accepts and somebody rejects, or those who accept mean different cells: then the verdict is skip."""


def settle(decisions: Iterable[StoredDecision]) -> dict[tuple[Place, str], Settled]:
    """(place, label_id) → what counts; decisions on other labels of the same tile stay apart."""
    grouped: dict[tuple[Place, str], list[Verdict]] = {}
    for decision in standing(decisions):
        verdict = decision.verdict
        grouped.setdefault((verdict.place, verdict.label_id), []).append(verdict)
    return {key: settle_one(verdicts) for key, verdicts in grouped.items()}


def settle_one(verdicts: Sequence[Verdict]) -> Settled:
    """One standing verdict a reviewer, oldest first, at least one."""
    for wanted in (Decision.REJECT, Decision.ACCEPT, Decision.SKIP):
        matching = [v for v in verdicts if v.decision is wanted]
        if matching and wanted is Decision.ACCEPT and len({v.correction for v in matching}) > 1:
            differing = replace(matching[-1], decision=Decision.SKIP, correction=None, reason=DIFFERENT_CELLS)
            return Settled(differing, disputed=True)
        if matching:
            accepted = any(v.decision is Decision.ACCEPT for v in verdicts)
            return Settled(matching[-1], wanted is Decision.REJECT and accepted)
    raise ValueError("Expected at least one verdict.")


def people_verdicts(folder: Path, table: Path | None) -> tuple[Verdict, ...]:
    """All verdicts on the tiles of a folder of records: those of its review.sqlite, and those of a CSV.

    Raises InputError: an unreadable one, or a contradiction between the two.
    """
    path = folder / DATABASE
    stored = settle(ReviewStore(path, create=False).decisions()) if path.is_file() else {}
    rows = () if table is None else read_verdicts(table)
    return merge_verdicts((s.verdict for s in stored.values()), rows, str(table))


def merge_verdicts(stored: Iterable[Verdict], table: Iterable[Verdict], name: str) -> tuple[Verdict, ...]:
    """The verdicts of review.sqlite, and those of a CSV that say something about other labels.

    A CSV row that repeats a stored verdict adds nothing. Raises InputError where the two contradict each other.
    """
    known = {(v.place, v.label_id): v for v in stored}
    problems, more = [], []
    for verdict in table:
        other = known.get((verdict.place, verdict.label_id))
        if other is None:
            more.append(verdict)
        elif other.decision is not verdict.decision or (
            verdict.correction is not None and verdict.correction != other.correction
        ):
            place = verdict.place
            problems.append(
                f"line {verdict.line}: {place.pair} {place.col},{place.row}: {verdict.decision.value}, "
                f"but review.sqlite says {other.decision.value} ({other.reviewer})"
            )
    if problems:
        listed = "\n".join(f"  - {p}" for p in problems[:20])
        raise InputError(
            f"{name}: {len(problems)} rows contradict the verdicts of the review page:\n{listed}",
            hint="Leave --verdicts out, or import the table as one more reader: vstain review DIR --import FILE.csv",
        )
    return (*known.values(), *more)
