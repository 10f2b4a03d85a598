"""Who trains, who chooses and who tests: folds are made of patients, never of tiles."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from virtual_stain.errors import ConfigError, InputError, VerificationError
from virtual_stain.markers import Marker, ValueDefinition, parse_marker, require_definition
from virtual_stain.records.manifest import Manifest, PairEntry
from virtual_stain.remote import Location


@dataclass(frozen=True, slots=True)
class Split:
    """The pairs of a folder of records, each on one side."""

    fold: int
    train: tuple[PairEntry, ...]
    validation: tuple[PairEntry, ...]
    """Stopping and the choice of the checkpoint see these, and nothing else of them enters the model."""
    test: tuple[PairEntry, ...]
    """Never read while training."""
    unused: tuple[PairEntry, ...] = ()
    """Left out of the training, so that it is of so many patients and no more (`training.max_patients`)."""

    def sides(self) -> dict[str, tuple[PairEntry, ...]]:
        return {"train": self.train, "validation": self.validation, "test": self.test}

    def patients(self) -> dict[str, list[str]]:
        """Keyed hashes of the patients of each side, sorted."""
        sides = self.sides() | ({"unused": self.unused} if self.unused else {})
        return {side: sorted({p.patient_id for p in pairs}) for side, pairs in sides.items()}


def split_by_patient(manifest: Manifest, fold: int, validation_share: float = 0.0, max_patients: int = 0) -> Split:
    """Test: fold K; validation: fold K + 1 (after the last one comes 0); train: the rest.

    `validation_share` > 0: this share of the patients outside fold K validates instead (with three folds a whole one
    would leave a third to train on). `max_patients` > 0: no more than this many train, always the same ones, so that
    fewer are a part of more. Raises ConfigError for a fold that does not exist, InputError when a side would
    have no patient or no label, VerificationError when a patient or a slide would stand on two sides.
    """
    if not 0 <= fold < manifest.n_folds:
        raise ConfigError(f"--fold: expected 0 to {manifest.n_folds - 1}. Received: {fold}")
    following = (fold + 1) % manifest.n_folds
    choosing = {p.patient_id for p in manifest.pairs if p.fold == following}
    if validation_share > 0:
        choosing = _some_patients(manifest, fold, validation_share)
    test = manifest.pairs_in([fold])
    rest = [p for p in manifest.pairs if p.fold != fold]
    training = [p for p in rest if p.patient_id not in choosing]
    chosen = {p.patient_id for p in training}
    if max_patients > 0:
        chosen = set(_in_order(manifest, chosen, f"training {fold}")[:max_patients])
    split = Split(
        fold,
        tuple(p for p in training if p.patient_id in chosen),
        tuple(p for p in rest if p.patient_id in choosing),
        test,
        tuple(p for p in training if p.patient_id not in chosen),
    )
    _require_labels(manifest, split)
    _require_disjoint(split)
    return split


def recorded_split(manifest: Manifest, fold: int, patients: Mapping[str, Sequence[str]]) -> Split:
    """The split of a run as it recorded it: side → keyed hashes of patients. Raises VerificationError."""
    side_of = {p: side for side, ids in patients.items() for p in ids}
    sides: dict[str, list[PairEntry]] = {"train": [], "validation": [], "test": [], "unused": []}
    for pair in manifest.pairs:
        if pair.patient_id not in side_of:
            raise VerificationError(
                f"pair {pair.pair}: its patient stands on no side of the run. Received other records."
            )
        sides[side_of[pair.patient_id]].append(pair)
    split = Split(fold, *(tuple(pairs) for pairs in sides.values()))
    _require_disjoint(split)
    return split


def _some_patients(manifest: Manifest, fold: int, share: float) -> set[str]:
    """Patients with labels outside the test fold, the same ones every time; at least one, never all."""
    order = _in_order(manifest, {p.patient_id for p in manifest.pairs if p.fold != fold}, f"validation {fold}")
    return set(order[: min(max(1, round(share * len(order))), len(order) - 1)])


def _in_order(manifest: Manifest, patients: set[str], purpose: str) -> list[str]:
    """Those of `patients` with labels, in an order that is the same every time and means nothing."""
    labelled = {p.patient_id for p in manifest.pairs if p.n_ratio} & patients
    return sorted(labelled, key=lambda p: hashlib.sha256(f"{purpose} {p}".encode()).digest())


def require_no_shared_tissue(folder: Location, split: Split, duplicates: Sequence[Mapping[str, Any]] | None) -> None:
    """`duplicates`: what `vstain records verify` found; None: not looked for. Raises VerificationError."""
    side_of = {p.pair: side for side, pairs in split.sides().items() for p in pairs}
    unused = {p.pair for p in split.unused}
    found = [d for d in duplicates or () if not {d["pair"], d["other"]} & unused]
    torn = [d for d in found if side_of.get(d["pair"]) != side_of.get(d["other"])]
    if torn:
        raise VerificationError(
            f"{folder}: the same tissue stands on two sides of the split, under two patients:\n"
            + "\n".join(f"  - pairs {d['pair']} and {d['other']}: {d['n_tiles']} tiles look alike" for d in torn),
            hint="Give both the same patient in PAIRS.csv and build again. If they do differ, remove duplicates.json.",
        )


def equal_labels(manifest: Manifest, split: Split) -> list[str]:
    """A sentence for every marker whose training labels are all 0 % or all 100 %: there is nothing to learn from."""
    if not ValueDefinition(manifest.value_definition).is_ratio:
        return []
    said = []
    for marker in manifest.markers:
        pairs = [p for p in split.train if p.marker == marker]
        positive, negative = sum(p.positive for p in pairs), sum(p.negative for p in pairs)
        if (positive == 0) != (negative == 0):
            share = "0 %" if positive == 0 else "100 %"
            said.append(
                f"{marker}: every label is the same: {share} of {positive + negative} training cells are positive. "
                "A model can learn nothing else from them: is the IHC slide the right one, and its stain counted?"
            )
    return said


def _require_labels(manifest: Manifest, split: Split) -> None:
    empty = [side for side, pairs in split.sides().items() if not any(p.n_ratio for p in pairs)]
    # a marker that is never taught, or never chosen by, would read its starting value for ever
    lacking = [
        f"{marker} for {side}"
        for marker in manifest.markers
        for side in ("train", "validation")
        if not any(p.n_ratio for p in split.sides()[side] if p.marker == marker)
    ]
    if not empty and lacking:
        raise InputError(
            f"fold {split.fold}: no usable label of {', '.join(lacking)}.",
            hint="Choose another --fold or --cv, or build records of the other markers alone.",
        )
    if not empty and manifest.n_folds >= 3:
        return
    patients = Counter(manifest.folds().values())
    listed = ", ".join(f"fold {k}: {patients.get(k, 0)}" for k in range(manifest.n_folds))
    raise InputError(
        f"fold {split.fold}: no usable label for {' and '.join(empty) or 'three sides'} (test is fold {split.fold}, "
        f"validation the next one, training the rest). Patients per {listed}.",
        hint="Choose another --fold, or give PAIRS.csv a column `fold` that spreads the patients, and build again.",
    )


def _require_disjoint(split: Split) -> None:
    owner: dict[str, str] = {}
    for side, pairs in split.sides().items():
        for pair in pairs:
            for key in (f"patient {pair.patient_id[:12]}…", f"H&E slide {pair.he_content_sha256[:12]}…"):
                if owner.setdefault(key, side) != side:
                    raise VerificationError(
                        f"pair {pair.pair}: its {key} stands in {owner[key]} and in {side}.",
                        hint="The same slide under two patients: mend PAIRS.csv and build the records again.",
                    )


def trained_markers(manifest: Manifest) -> tuple[Marker, ...]:
    """The markers of the folder. Raises ConfigError for a value definition that a marker does not have."""
    markers = tuple(parse_marker(m) for m in manifest.markers)
    for marker in markers:
        require_definition(marker, ValueDefinition(manifest.value_definition))
    return markers
