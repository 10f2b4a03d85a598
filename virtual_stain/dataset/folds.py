"""Folds of patients for cross-validation, without touching the tiles; a site's patients may be kept together.

The manifest's folds are the ones that count. Another number of folds, or whole sites as groups, makes a plan of its own
that every run records: the same plan from the same manifest, always.
"""

from __future__ import annotations

import dataclasses
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from virtual_stain.dataset.split import split_by_patient
from virtual_stain.errors import ConfigError, InputError
from virtual_stain.patients import normalised
from virtual_stain.records.manifest import Manifest
from virtual_stain.tables import SURPLUS, read_table


@dataclass(frozen=True, slots=True)
class FoldPlan:
    """patient_id → fold."""

    n_folds: int
    folds: dict[str, int]
    grouped: bool
    """By site, so that a fold tests on sites that were not trained on."""

    def apply(self, manifest: Manifest) -> Manifest:
        """The manifest with these folds in place of its own."""
        pairs = tuple(dataclasses.replace(p, fold=self.folds[p.patient_id]) for p in manifest.pairs)
        return dataclasses.replace(manifest, n_folds=self.n_folds, pairs=pairs)


def plan_folds(manifest: Manifest, n_folds: int | None = None, sites: Mapping[str, str] | None = None) -> FoldPlan:
    """The manifest's own folds, or `n_folds` of about equally many labelled tiles; with `sites`, whole sites.

    `sites`: pair → site; patients who appear at two sites join them. Raises ConfigError, InputError.
    """
    k = manifest.n_folds if n_folds is None else n_folds
    if k < 3:
        raise ConfigError(f"--cv: expected at least 3 folds (test, validation, training). Received: {k}")
    if sites is None and k == manifest.n_folds:
        return FoldPlan(k, manifest.folds(), False)
    return _spread(manifest, k, sites)


def _spread(manifest: Manifest, k: int, sites: Mapping[str, str] | None) -> FoldPlan:
    units = _units(manifest, sites)
    if len(units) < k:
        what = "patients" if sites is None else "sites that share no patient"
        raise InputError(f"expected at least {k} {what} for {k} folds. Received: {len(units)}")
    tiles: dict[str, int] = {}
    for pair in manifest.pairs:
        tiles[pair.patient_id] = tiles.get(pair.patient_id, 0) + pair.n_ratio
    filled = [0] * k
    folds: dict[str, int] = {}
    # the largest first, each into the emptiest fold
    for unit in sorted(units, key=lambda u: (-sum(tiles[p] for p in u), u)):
        fold = min(range(k), key=lambda f: (filled[f], f))
        # + 1: patients without any labelled tile are spread too
        filled[fold] += sum(tiles[p] + 1 for p in unit)
        folds |= dict.fromkeys(unit, fold)
    return FoldPlan(k, folds, sites is not None)


def require_every_fold(manifest: Manifest, validation_share: float) -> None:
    """Every fold can be tested on, before the first one is trained. Raises InputError that names the K that works."""
    for fold in range(manifest.n_folds):
        try:
            split_by_patient(manifest, fold, validation_share)
        except InputError as error:
            works = _number_that_works(manifest, validation_share)
            raise InputError(
                f"--cv {manifest.n_folds}: {error.message} No fold was trained.",
                hint=error.hint if works is None else f"--cv {works} works: it spreads the same patients anew.",
            ) from None


def _number_that_works(manifest: Manifest, validation_share: float) -> int | None:
    labelled = {p.patient_id for p in manifest.pairs if p.n_ratio}
    for k in range(min(len(labelled), 20), 2, -1):
        if k == manifest.n_folds:
            continue
        try:
            planned = _spread(manifest, k, None).apply(manifest)
            for fold in range(k):
                split_by_patient(planned, fold, validation_share)
        except InputError:
            continue
        return k
    return None


def read_sites(path: Path, manifest: Manifest) -> dict[str, str]:
    """pair → site, lower case, from a CSV with the columns `pair,site`. Raises InputError that lists every bad row at
    once."""
    table = read_table(path, "the table of sites")
    if not table.rows or not {"pair", "site"} <= set(table.names):
        raise InputError(f"{path}: expected a CSV with the columns pair,site. Received: {table.header}")
    problems: list[str] = []
    sites: dict[str, str] = {}
    for line, row in table.records():
        # like a patient's name: one site under two spellings would stand on two sides
        pair, site = unicodedata.normalize("NFC", row["pair"]), normalised(row["site"])
        if not pair or not site:
            problems.append(f"line {line}: a pair or a site is empty")
        elif SURPLUS in row:
            problems.append(f"line {line}: more values than columns (a comma inside a value needs quotes)")
        elif sites.setdefault(pair, site) != site:
            problems.append(f"line {line}: pair {pair} stands at two sites")
    problems += [f"pair {p.pair} has no site" for p in manifest.pairs if p.pair not in sites]
    if problems:
        raise InputError(f"{path}: the table of sites has errors:\n" + "\n".join(f"  - {p}" for p in problems))
    return sites


def _units(manifest: Manifest, sites: Mapping[str, str] | None) -> list[tuple[str, ...]]:
    """Patients that must share a fold, sorted."""
    leader = {p.patient_id: p.patient_id for p in manifest.pairs}

    def find(patient: str) -> str:
        while leader[patient] != patient:
            patient = leader[patient]
        return patient

    first_at: dict[str, str] = {}
    for pair in manifest.pairs if sites is not None else ():
        assert sites is not None
        first = first_at.setdefault(sites[pair.pair], pair.patient_id)
        a, b = sorted((find(first), find(pair.patient_id)))
        leader[b] = a
    units: dict[str, list[str]] = {}
    for patient in sorted(leader):
        units.setdefault(find(patient), []).append(patient)
    return [tuple(u) for u in units.values()]
