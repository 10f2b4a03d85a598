"""What the review can do: the folder and the verdicts together. The API says it in HTTP, the page in pictures."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from virtual_stain.review.agreement import Agreement, agreement
from virtual_stain.review.correction import Correction, correct
from virtual_stain.review.store import RepeatedRequestError, ReviewStore, clean_name
from virtual_stain.review.verdicts import Decision, Place, Verdict
from virtual_stain.web.problem import ApiError
from virtual_stain.web.review.folder import Label, RecordFolder, ReviewPair
from virtual_stain.web.review.queue import Entry, Filter, Order, Reviewed, Status, build_queue

CHANGED = "this tile's label has changed since it was shown: the verdict was not taken."


class ReviewDesk:
    """Safe from several threads; other servers and build-records may work on the same folder."""

    def __init__(self, folder: RecordFolder, store: ReviewStore) -> None:
        self.folder, self.store = folder, store
        self._lock = threading.Lock()
        self._cached: tuple[int, Reviewed] | None = None

    def reviewed(self) -> tuple[int, Reviewed]:
        """(id of the newest row, all standing decisions by tile)."""
        last = self.store.last_id()
        with self._lock:
            if self._cached is None or self._cached[0] != last:
                self._cached = (last, Reviewed.of(self.store.decisions()))
            return self._cached

    def queue(self, chosen: Filter, order: Order) -> tuple[int, list[Entry]]:
        last, reviewed = self.reviewed()
        return last, build_queue(self.folder.pairs(), reviewed, chosen, order)

    def pair(self, name: str) -> ReviewPair:
        for pair in self.folder.pairs():
            if pair.name == name:
                return pair
        raise ApiError(404, f"no pair {name!r} with tiles in this folder.")

    def label(self, place: Place, label_id: str | None = None) -> Label:
        """The current label. 404: there is none; 409: it is not the one that is meant any more."""
        label = self.folder.label(place)
        if label is None:
            raise ApiError(404, f"no tile {place.col},{place.row} of pair {place.pair!r} is under review.")
        if label_id is not None and label.label_id != label_id:
            raise ApiError(409, CHANGED, "Load the page again.")
        return label

    def entry(self, label: Label) -> Entry:
        return Reviewed.of(self.store.decisions(label.place)).entry(label)

    def changes(self, after: int) -> tuple[int, list[Entry]]:
        """Labels about which something was written after the row `after`."""
        last = self.store.last_id()
        labels = [self.folder.label(place) for place in self.store.changed_places(after)]
        return last, [self.entry(label) for label in labels if label is not None]

    def decide(self, verdict: Verdict, request_id: str | None = None) -> tuple[int, Entry]:
        """Writes one verdict; on disk when it returns."""
        label = self.label(verdict.place, verdict.label_id)
        if verdict.decision is Decision.REJECT and not verdict.reason.strip():
            raise ApiError(422, "a rejected label needs a reason: it is what the next person learns from.")
        if verdict.correction is not None:
            if verdict.decision is not Decision.ACCEPT:
                raise ApiError(422, "corrected cells go with accept only.")
            problem = verdict.correction.problem(self.folder.cells(label), self.folder.tile_px)
            if problem is not None:
                raise ApiError(422, problem)
        try:
            (number,) = self.store.add([verdict], request_id=request_id)
        except RepeatedRequestError as error:
            raise ApiError(409, f"{error.message} Nothing was stored.", "Send it with an id of its own.") from None
        return number, self.entry(label)

    def undo(self, reviewer: str) -> tuple[int, list[Entry], int]:
        """(newest id, changed labels, number of decisions taken back)."""
        undone = self.store.undo(reviewer)
        labels = [self.folder.label(v.place) for v in undone]
        return self.store.last_id(), [self.entry(label) for label in labels if label is not None], len(undone)

    def accept_all(self, reviewer: str, chosen: Filter, expected: int) -> tuple[int, list[Entry]]:
        """Accepts every label that passes and that nobody has said anything about, all or none.

        One with a stale verdict is left out: somebody had a reason once, so somebody has to look.
        """
        _, entries = self.queue(chosen, Order.PLACE)
        waiting = [e.label for e in entries if e.status is Status.OPEN]
        if len(waiting) != expected:
            raise ApiError(
                409, f"expected {expected} undecided labels. Now there are {len(waiting)}.", "Look at them again."
            )
        verdicts = [Verdict(x.place, x.label_id, Decision.ACCEPT, reviewer, "batch") for x in waiting]
        self.store.add(verdicts, origin="batch")
        last, reviewed = self.reviewed()
        return last, [reviewed.entry(label) for label in waiting]

    def corrections(self, label: Label) -> dict[str, Correction]:
        """reader → how that reader has corrected the cells; never mixed: each reader reads alone."""
        found = {d.verdict.reviewer: d.verdict.correction for d in self.entry(label).decisions}
        return {reader: correction for reader, correction in found.items() if correction is not None}

    def agreement(self) -> list[Agreement]:
        return agreement(self.store.decisions(), self._ratio_of)

    def _ratio_of(self, verdict: Verdict) -> float | None:
        label = self.folder.label(verdict.place)
        if label is None or label.label_id != verdict.label_id:
            return None
        if verdict.correction is None:
            return label.counts.ratio
        return correct(self.folder.cells(label), verdict.correction).counts.ratio

    def take_in(self, verdicts: Sequence[Verdict], origin: str) -> tuple[int, int, int]:
        """Imports verdicts: (new, repeated, of them stale). What is there already is not written twice."""
        standing = {
            (v.place, v.label_id, v.reviewer): v for v in (d.verdict for d in self.store.decisions())
        }  # the last one of each wins: they come oldest first
        fresh = []
        for verdict in verdicts:
            known = standing.get((verdict.place, verdict.label_id, verdict.reviewer))
            if known is None or _said(known) != _said(verdict):
                fresh.append(verdict)
        if fresh:
            self.store.add(fresh, origin=origin)
        stale = sum(self._is_stale(v) for v in fresh)
        return len(fresh), len(verdicts) - len(fresh), stale

    def _is_stale(self, verdict: Verdict) -> bool:
        label = self.folder.label(verdict.place)
        return label is None or label.label_id != verdict.label_id


def _said(verdict: Verdict) -> tuple[Decision, str, Correction | None]:
    return verdict.decision, verdict.reason, verdict.correction


def reviewer_name(text: str) -> str:
    """422 for a name that is none."""
    try:
        return clean_name(text)
    except ValueError as error:
        raise ApiError(422, str(error)) from None
