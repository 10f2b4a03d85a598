"""Whose folder it is: a run goes on only with the configuration, the fold and the records that it began with."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any

from virtual_stain.config import Config
from virtual_stain.dataset.split import Split
from virtual_stain.errors import InputError, OutputError
from virtual_stain.files import output_errors, sha256_file
from virtual_stain.records.manifest import MANIFEST, Manifest
from virtual_stain.remote import Location
from virtual_stain.reuse import code_sha256
from virtual_stain.training.run_dir import RunDir, read_run_json

_SECTIONS = ("model", "augment", "training")
_STAGE = "virtual_stain.training.fit"


def describe_data(records: Location, manifest: Manifest, split: Split, weights: str) -> dict[str, Any]:
    """What `run.json` keeps of the records: enough to evaluate, to export, and to refuse a mix-up.

    `weights`: `model.weights`; of a file the content counts, whatever its name.
    """
    seen = split.train + split.validation
    return {
        "records": str(records.resolve()),
        "manifest_sha256": sha256_file(records / MANIFEST),
        "weights_sha256": _file_sha256(weights),
        "code_sha256": code_sha256(_STAGE),
        "fold": split.fold,
        "n_folds": manifest.n_folds,
        "folds": manifest.folds(),
        "markers": list(manifest.markers),
        "value_definition": manifest.value_definition,
        "tiling": {
            "window_um": manifest.tiling.window_um,
            "stride_um": manifest.tiling.stride_um,
            "tile_px": manifest.tiling.tile_px,
        },
        "patient_key_fingerprint": manifest.patient_key_fingerprint,
        "accept_unreviewed": manifest.accept_unreviewed,
        "patients": split.patients(),
        "n_tiles": {side: sum(p.n_records for p in pairs) for side, pairs in split.sides().items()},
        "seen_slides": sorted({p.he_content_sha256 for p in seen}),
    }


def _file_sha256(weights: str) -> str | None:
    """Digest of the starting weights' file; None for "none", "imagenet" and a file that is not there (any more)."""
    path = Path(weights).expanduser()
    return sha256_file(path) if weights not in ("none", "imagenet") and path.is_file() else None


def differences(record: dict[str, Any], config: Config, data: dict[str, Any]) -> list[str]:
    """What separates the recorded run from the one that is asked for, as sentences; empty when it is the same."""
    asked, defaults, found = config.to_dict(), Config().to_dict(), []
    for section in _SECTIONS:
        recorded = record["config"].get(section, {})
        for key, value in asked[section].items():
            before = recorded.get(key, defaults[section][key])  # a run from before a setting was there had its default
            if before != value:
                found.append(f"{section}.{key}: {before!r} there, {value!r} now")
    for key, what in (("fold", "--fold"), ("manifest_sha256", "the records' manifest (sha256)")):
        if record["data"][key] != data[key]:
            found.append(f"{what}: {record['data'][key]} there, {data[key]} now")
    if record["data"].get("folds", data["folds"]) != data["folds"]:
        found.append("the folds of the patients (--cv, --sites): others there than now")
    before, now = record["data"].get("weights_sha256"), data["weights_sha256"]
    if before and now and before != now:  # going on needs the checkpoint only: the file may be gone
        found.append(f"the content of model.weights (sha256): {before} there, {now} now")
    return found


def claim(paths: RunDir, config: Config, data: dict[str, Any], *, resume: bool, force: bool) -> dict[str, Any] | None:
    """Makes sure that the folder is this run's; returns its record where there is one to go on from, else None.

    Raises OutputError when it belongs to another run. Raises it too when neither `resume` nor `force` is given and the
    run is half done, or other code has finished it: days of training are not thrown away unasked, and not passed off as
    this version's. `force` begins anew, and the old run's files go; so do those that lie there without a `run.json`.
    """
    if force:
        _clear(paths)
    if not paths.run_json.is_file():
        if any(path.is_file() for path in (paths.best, paths.last, *paths.evaluation)):
            _clear(paths)
        return None
    try:
        record = read_run_json(paths.path)
    except InputError as error:
        raise OutputError(f"{paths.path}: this folder belongs to another command: {error}", hint=_ANOTHER) from error
    found = differences(record, config, data)
    if found:
        raise OutputError(
            f"{paths.path}: this folder belongs to another run:\n" + "\n".join(f"  - {line}" for line in found),
            hint=_ANOTHER,
        )
    if record.get("status") == "finished" and not paths.best.is_file():
        raise OutputError(f"{paths.path}: this run is finished, but its best.h5 is gone.", hint="Begin anew: --force.")
    if not resume and record.get("status") != "finished":
        raise OutputError(
            f"{paths.path}: this run was begun here and is not finished.",
            hint="Go on with it: --resume. Begin anew: --force.",
        )
    if record.get("status") == "finished" and not resume and other_code(record, data):
        raise OutputError(
            f"{paths.path}: this run is finished, but other code than this version's has trained it.",
            hint="Keep it as it is: --resume. Train anew: --force (the old run's files are deleted).",
        )
    data["weights_sha256"] = data["weights_sha256"] or record["data"].get("weights_sha256")
    data["earlier_code_sha256"] = _earlier_code(record, data)
    return record


def other_code(record: dict[str, Any], data: dict[str, Any]) -> bool:
    """Whether the recorded run was begun by other code than the one that runs now, or by code that nobody recorded."""
    return bool(record["data"].get("code_sha256") != data["code_sha256"])


_ANOTHER = "Choose another --out, or --force to begin anew here (the old run's files are deleted)."


def _earlier_code(record: dict[str, Any], data: dict[str, Any]) -> list[str]:
    """Other code that has had a part in the run, "unknown" where nobody recorded which."""
    known = {*record["data"].get("earlier_code_sha256", ()), record["data"].get("code_sha256", "unknown")}
    return sorted(known - {data["code_sha256"]})


def drop_evaluation(paths: RunDir) -> None:
    """Removes the figures of earlier weights: beside new ones they would be wrong. Raises OutputError."""
    with output_errors(paths.path):
        for path in paths.evaluation:
            path.unlink(missing_ok=True)


def _clear(paths: RunDir) -> None:
    drop_evaluation(paths)
    with output_errors(paths.path):
        for path in (paths.last, paths.best, paths.history):
            path.unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(paths.tensorboard)
        paths.run_json.unlink(missing_ok=True)  # last: while a file of the old run lies there, it is the old run's
