"""Who a run may be evaluated on: patients and slides that it has never seen, proven by keyed hashes."""

from __future__ import annotations

from virtual_stain.errors import InputError
from virtual_stain.files import sha256_file
from virtual_stain.records.manifest import MANIFEST, Manifest, PairEntry
from virtual_stain.remote import Location
from virtual_stain.training.run_dir import TrainedRun


def held_out_pairs(run: TrainedRun, records: Location, manifest: Manifest) -> tuple[PairEntry, ...]:
    """The run's own records: its test fold. Other records: all of them, and not one patient or slide may be known.

    Raises InputError when patients cannot be compared (another key), when one was trained on or chose the
    checkpoint, or when geometry or meaning of the records is not the run's.
    """
    _require_same_key(run, records, manifest)
    _require_same_meaning(run, records, manifest)
    own = sha256_file(records / MANIFEST) == run.data["manifest_sha256"]
    test = set(run.data["patients"]["test"])
    pairs = tuple(p for p in manifest.pairs if p.patient_id in test) if own else manifest.pairs
    patients, slides = set(run.card["training_patient_ids"]), set(run.card["training_slide_hashes"])
    known = sorted({p.patient_id for p in pairs if p.patient_id in patients or p.he_content_sha256 in slides})
    if known:
        shown = ", ".join(f"{k[:12]}…" for k in known[:5])
        raise InputError(
            f"{records}: {len(known)} of its {len({p.patient_id for p in pairs})} patients were seen in training or "
            f"chose the checkpoint ({shown}). No figure on them is evidence.",
            hint=_CHANGED
            if not own and str(records.resolve()) == run.data["records"]
            else "Give records of other patients, or leave DIR out to evaluate the run's own test fold.",
        )
    if not any(p.n_ratio for p in pairs):
        raise InputError(f"{records}: no held-out tile has a usable label.")
    return pairs


_CHANGED = (
    "These are the records of the training, built again since: their manifest.json is another one. Train on them anew "
    "(vstain fit), or give records of other patients."
)


def _require_same_key(run: TrainedRun, records: Location, manifest: Manifest) -> None:
    there, here = run.card["patient_key_fingerprint"], manifest.patient_key_fingerprint
    if there != here:
        raise InputError(
            f"{records}: its patients were hashed with another key ({here[:12]}…) than the run's ({there[:12]}…), so "
            "nobody can tell whether a patient was trained on.",
            hint="Build the records again with the key file of the run (VSTAIN_PATIENT_KEY).",
        )


def _require_same_meaning(run: TrainedRun, records: Location, manifest: Manifest) -> None:
    tiling = run.card["tiling"]
    expected = (tiling["window_um"], tiling["tile_px"], run.card["value_definition"])
    received = (manifest.tiling.window_um, manifest.tiling.tile_px, manifest.value_definition)
    if expected != received:
        raise InputError(
            f"{records}: expected tiles of the run's window (µm), size (px) and value {expected}. Received: {received}"
        )
    unknown = sorted(set(manifest.markers) - set(run.card["markers"]))
    if unknown:
        raise InputError(f"{records}: expected the run's markers {run.card['markers']}. Received also: {unknown}")
