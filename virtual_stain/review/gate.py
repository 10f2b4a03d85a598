"""The gate before the records: which tiles may become records, by whose verdict, and which pairs still wait."""

from __future__ import annotations

from dataclasses import dataclass

from virtual_stain.review.correction import Correction
from virtual_stain.review.verdicts import Decision, Place, Review

UNREVIEWED = "unreviewed"


@dataclass(frozen=True, slots=True)
class Passed:
    """A tile that may become a record."""

    verdict: str
    """accept, or unreviewed under the waiver."""
    reviewer: str
    correction: Correction | None = None
    """What the reviewer changed about its cells."""


@dataclass(frozen=True, slots=True)
class Gate:
    """The rule for one pair."""

    review: Review
    accept_unreviewed: bool
    """--accept-unreviewed was given."""
    needs_person: bool
    """The registration's verdict is "review": the waiver does not cover its tiles."""

    @property
    def waived(self) -> bool:
        return self.accept_unreviewed and not self.needs_person

    def passes(self, place: Place) -> Passed | None:
        """None: the tile stays out (rejected, skipped, or without the verdict it needs)."""
        verdict = self.review.applied.get(place)
        if verdict is None:
            return Passed(UNREVIEWED, "") if self.waived and place not in self.review.refused else None
        if verdict.decision is not Decision.ACCEPT:
            return None
        return Passed(Decision.ACCEPT.value, verdict.reviewer, verdict.correction)

    def pending(self, pair: str) -> bool:
        """Whether a person still has to look: the pair has no verdict at all and none is waived."""
        return not self.waived and self.review.n_for(pair) == 0
