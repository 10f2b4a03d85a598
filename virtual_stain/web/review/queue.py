"""The queue: labels with what people have said about them, filtered and ordered."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from virtual_stain.review.settle import settle_one
from virtual_stain.review.store import StoredDecision, standing
from virtual_stain.review.verdicts import Decision, Place
from virtual_stain.web.review.folder import Label, ReviewPair


class Status(enum.StrEnum):
    """What people have said about a label."""

    OPEN = "open"
    """Nothing yet."""
    ACCEPTED = "accept"
    REJECTED = "reject"
    SKIPPED = "skip"
    DISPUTED = "disputed"
    """Accepted by one, rejected by another: it stays out of the records."""
    STALE = "stale"
    """Undecided, but there is a verdict on an earlier version of the label."""


class Order(enum.StrEnum):
    """How the queue is ordered."""

    DOUBT = "doubt"
    """Largest doubt first (`Label.doubt`); tiles whose ratio cannot train come after all others."""
    PLACE = "place"
    RATIO = "ratio"
    ERROR = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which labels; every condition that is set must hold."""

    pair: str | None = None
    flag: str | None = None
    """Carries this flag."""
    without_flags: bool = False
    ratio_min: float | None = None
    """Fraction 0–1."""
    ratio_max: float | None = None
    error_max_um: float | None = None
    status: Status | None = None
    corrected: bool = False


@dataclass(frozen=True, slots=True)
class Entry:
    """A label in the queue."""

    label: Label
    status: Status
    decisions: tuple[StoredDecision, ...] = ()
    """Standing ones on the current label, one a reviewer, oldest first."""
    stale: tuple[StoredDecision, ...] = ()
    """On earlier versions of the label: shown, never applied."""

    @property
    def corrected(self) -> bool:
        return any(d.verdict.correction for d in self.decisions)

    @property
    def decided(self) -> bool:
        return self.status not in (Status.OPEN, Status.STALE)


@dataclass(frozen=True, slots=True)
class Reviewed:
    """All decisions of a folder, sorted by the tile that they are about."""

    by_place: Mapping[Place, list[StoredDecision]] = field(default_factory=dict)

    @staticmethod
    def of(decisions: Iterable[StoredDecision]) -> Reviewed:
        by_place: dict[Place, list[StoredDecision]] = {}
        for decision in standing(decisions):
            by_place.setdefault(decision.verdict.place, []).append(decision)
        return Reviewed(by_place)

    def entry(self, label: Label) -> Entry:
        decisions = self.by_place.get(label.place, [])
        current = tuple(d for d in decisions if d.verdict.label_id == label.label_id)
        stale = tuple(d for d in decisions if d.verdict.label_id != label.label_id)
        return Entry(label, _status(current, stale), current, stale)


def build_queue(pairs: Iterable[ReviewPair], reviewed: Reviewed, chosen: Filter, order: Order) -> list[Entry]:
    """The entries that pass, in order; equal ones by pair, row and column, so that the order never jumps."""
    entries = [
        entry
        for pair in pairs
        if chosen.pair is None or pair.name == chosen.pair
        for entry in map(reviewed.entry, pair.labels)
        if passes(entry, chosen)
    ]
    return sorted(
        entries, key=lambda e: (_rank(e.label, order), e.label.place.pair, e.label.place.row, e.label.place.col)
    )


def passes(entry: Entry, chosen: Filter) -> bool:
    """Whether an entry meets every condition."""
    label, ratio = entry.label, entry.label.counts.ratio
    return (
        (chosen.pair is None or label.place.pair == chosen.pair)
        and (chosen.flag is None or chosen.flag in label.flags)
        and not (chosen.without_flags and label.flags)
        and (chosen.ratio_min is None or (ratio is not None and ratio >= chosen.ratio_min))
        and (chosen.ratio_max is None or (ratio is not None and ratio <= chosen.ratio_max))
        and (
            chosen.error_max_um is None
            or (label.error_median_um is not None and label.error_median_um <= chosen.error_max_um)
        )
        and (chosen.status is None or _has_status(entry, chosen.status))
        and (not chosen.corrected or entry.corrected)
    )


def _has_status(entry: Entry, status: Status) -> bool:
    return not entry.decided if status is Status.OPEN else entry.status is status


def _status(current: tuple[StoredDecision, ...], stale: tuple[StoredDecision, ...]) -> Status:
    if not current:
        return Status.STALE if stale else Status.OPEN
    settled = settle_one([d.verdict for d in current])
    if settled.disputed:
        return Status.DISPUTED
    return {
        Decision.ACCEPT: Status.ACCEPTED,
        Decision.REJECT: Status.REJECTED,
        Decision.SKIP: Status.SKIPPED,
    }[settled.verdict.decision]


def _rank(label: Label, order: Order) -> tuple[float, ...]:
    if order is Order.DOUBT:
        # a ratio that cannot train anyway is worth less of a pathologist's time
        return (float(label.weight <= 0), -label.doubt)
    if order is Order.RATIO:
        return (-(label.counts.ratio if label.counts.ratio is not None else -1.0),)
    if order is Order.ERROR:
        return (-(label.error_median_um if label.error_median_um is not None else float("inf")),)
    return ()
