"""Who trains, who chooses and who tests: folds are made of patients, never of tiles."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from virtual_stain.errors import ConfigError, InputError, VerificationError
from virtual_stain.markers import Marker, ValueDefinition, parse_marker, require_built, require_nuclear
from virtual_stain.records.manifest import Manifest, PairEntry


@dataclass(frozen=True, slots=True)
class Split:
    """The pairs of a folder of records, each on one side."""

    fold: int
    train: tuple[PairEntry, ...]
    validation: tuple[PairEntry, ...]
    """Stopping and the choice of the checkpoint see these, and nothing else of them enters the model."""
    test: tuple[PairEntry, ...]
    """Never read while training."""

    def sides(self) -> dict[str, tuple[PairEntry, ...]]:
        return {"train": self.train, "validation": self.validation, "test": self.test}

    def patients(self) -> dict[str, list[str]]:
        """Keyed hashes of the patients of each side, sorted."""
        return {side: sorted({p.patient_id for p in pairs}) for side, pairs in self.sides().items()}


def split_by_patient(manifest: Manifest, fold: int) -> Split:
    """Test: fold K; validation: fold K + 1 (after the last one comes 0); train: the rest.

    Raises ConfigError for a fold that does not exist, InputError when a side would have no patient or no label,
    VerificationError when a patient or a slide would stand on two sides.
    """
    if not 0 <= fold < manifest.n_folds:
        raise ConfigError(f"--fold: expected 0 to {manifest.n_folds - 1}. Received: {fold}")
    following = (fold + 1) % manifest.n_folds
    test, validation = manifest.pairs_in([fold]), manifest.pairs_in([following])
    train = tuple(p for p in manifest.pairs if p.fold not in (fold, following))
    split = Split(fold, train, validation, test)
    _require_labels(manifest, split)
    _require_disjoint(split)
    return split


def _require_labels(manifest: Manifest, split: Split) -> None:
    empty = [side for side, pairs in split.sides().items() if not any(p.n_ratio for p in pairs)]
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
    """The markers of the folder, one output pair each. Raises ConfigError for what is not built."""
    require_built(ValueDefinition(manifest.value_definition))
    markers = tuple(parse_marker(m) for m in manifest.markers)
    for marker in markers:
        require_nuclear(marker)
    return markers
