"""The state of one run of `build-records`, filled stage by stage."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from pathlib import Path

from virtual_stain.config import Config
from virtual_stain.errors import InputError, OutputError
from virtual_stain.labels.store import TileTable
from virtual_stain.pairs import StainPair, assign_folds
from virtual_stain.patients import PatientKey
from virtual_stain.progress import Progress
from virtual_stain.provenance import Outcome, RunRecord
from virtual_stain.records.manifest import PairEntry, read_manifest
from virtual_stain.workflows.ending import public_reason
from virtual_stain.workflows.many import Done
from virtual_stain.workflows.pair import PreparedPair
from virtual_stain.workflows.scheduling import Failure, Workers


@dataclass
class BuildRun:
    """Pairs, what is known of each, and where the work runs."""

    out: Path
    config: Config
    accept_unreviewed: bool
    fail_fast: bool
    pairs: tuple[StainPair, ...]
    key: PatientKey
    workers: Workers
    progress: Progress
    record: RunRecord
    seen: dict[str, list[list[int]] | None] = field(default_factory=dict)
    """Stamps of the files of each pair before they were read."""
    prepared: dict[str, PreparedPair] = field(default_factory=dict)
    failed: dict[str, Failure] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    """Pairs without records that are no failures, and why."""
    pending: list[str] = field(default_factory=list)
    """Pairs that wait for a person's verdict."""
    tables: dict[str, TileTable] = field(default_factory=dict)
    entries: dict[str, PairEntry] = field(default_factory=dict)
    """Pairs with records, as the manifest lists them."""
    built: int = 0
    worker_seconds: float = 0.0

    @functools.cached_property
    def patients(self) -> dict[str, str]:
        """pair → patient_id."""
        return {p.pair: self.key.patient_id(p.patient) for p in self.pairs}

    @functools.cached_property
    def folds(self) -> dict[str, int]:
        """patient_id → fold; those of the older records stay."""
        n_folds = self.config.labels.n_folds
        try:
            older = read_manifest(self.out)
            earlier = older.folds() if older.n_folds == n_folds else {}
        except InputError:  # none, or none that can be read
            earlier = {}
        return assign_folds(self.pairs, self.key, n_folds, earlier)

    @property
    def is_stopped(self) -> bool:
        """Whether nothing more is to be begun."""
        return self.fail_fast and bool(self.failed)

    def fail(self, pair: str, failure: Failure) -> None:
        """Leaves a pair out. A disk that takes nothing more ends the run: the other pairs are not at fault."""
        if isinstance(failure.error, OutputError):
            raise failure.error
        if pair not in self.failed:
            self.progress.say(f"{pair}: left out: {failure.error.message}")
        self.failed.setdefault(pair, failure)

    def take_failure(self, pair: str, done: Done) -> bool:
        """Notes what a stage could not do for a pair; False where it did."""
        if done.error is not None:
            self.fail(pair, Failure(done.error, unexpected=done.is_fault))
        return done.error is not None

    def alive(self) -> list[PreparedPair]:
        """Prepared pairs that have not failed, in the order of the table."""
        names = [p.pair for p in self.pairs if p.pair in self.prepared and p.pair not in self.failed]
        return [self.prepared[name] for name in names]

    def is_finished(self, pair: str) -> bool:
        """Whether it has come to its end: records, or a reason for none."""
        return pair in self.entries or pair in self.failed or pair in self.left_out

    def reason(self, pair: StainPair) -> str:
        """Why a pair has no records, without names of files; "" where it has."""
        failure = self.failed.get(pair.pair)
        stopped = "" if self.is_finished(pair.pair) else "not finished: the run was stopped"
        text = self.left_out.get(pair.pair, stopped) if failure is None else failure.error.message
        return public_reason(text, pair, self.out)

    def outcome(self, pair: StainPair) -> Outcome:
        """For run.json."""
        name = pair.pair
        ok = self.is_finished(name) and name not in self.failed and name not in self.pending
        return Outcome(name, ok, self.reason(pair))
