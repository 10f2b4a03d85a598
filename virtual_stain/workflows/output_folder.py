"""The folder that `build-records` writes: claimed by one run's pairs and settings, refused to any other."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from virtual_stain.config import Config
from virtual_stain.config.load import with_current_names
from virtual_stain.errors import InputError, OutputError
from virtual_stain.files import make_folder, output_errors, read_json, write_json
from virtual_stain.pairs import StainPair
from virtual_stain.patients import PatientKey
from virtual_stain.records.manifest import MANIFEST, Manifest
from virtual_stain.schema_check import require_schema
from virtual_stain.workflows.pair import WORK, tile_settings

OUTDATED_MANIFEST = "manifest.outdated.json"
_STATE = "build.json"
_WRITTEN = ("run.json", "summary.html", "records.csv", "index.html")
_SHARD = re.compile(r".+-\d{5}(-of-\d{5})?\.tfrecord(\.tmp)?")
_SECTIONS = ("tiling", "tissue", "registration", "counting", "labels")


def identities(pairs: Sequence[StainPair], key: PatientKey) -> dict[str, tuple[str, str]]:
    """pair → (patient_id, marker): what makes a pair the same pair in a later run."""
    return {p.pair: (key.patient_id(p.patient), p.marker.value) for p in pairs}


def claim(out: Path, config: Config, pairs: Mapping[str, tuple[str, str]], *, force: bool) -> None:
    """Makes `out` the folder of these pairs (`pair → (patient_id, marker)`) and settings.

    A later run may add pairs. Raises OutputError when the folder holds another run's output; `force` clears that
    (review files are kept) and does everything anew.
    """
    make_folder(out)
    if force:
        _clear(out)
    state = out / WORK / _STATE
    mine = {"config": tile_settings(config, *_SECTIONS), "pairs": {pair: list(value) for pair, value in pairs.items()}}
    if state.is_file():
        _compare(out, state, mine)
    else:
        foreign = _foreign(out)
        if foreign:
            raise OutputError(
                f"{out}: the folder already holds the output of another run ({foreign}).",
                hint="Choose another --out, or take the folder over with --force (its records are removed).",
            )
        make_folder(state.parent)
    write_json(state, mine)


def remove_unlisted_shards(out: Path, manifest: Manifest) -> None:
    """Removes shards that the manifest does not name: of pairs that have no records any more, or of a killed run; and
    a manifest that was put aside."""
    listed = {shard.file for pair in manifest.pairs for shard in pair.all_shards}
    with output_errors(out):
        for path in sorted(out.iterdir()):
            if _SHARD.fullmatch(path.name) and path.name not in listed:
                path.unlink()
        (out / OUTDATED_MANIFEST).unlink(missing_ok=True)


def put_manifest_aside(out: Path) -> bool:
    """Renames a manifest whose labels have changed since, so that no reader takes the old shards for current ones.

    Nothing is lost: the next run that has records writes a manifest and removes the old one and its shards.
    """
    with output_errors(out):
        if not (out / MANIFEST).is_file():
            return False
        (out / MANIFEST).replace(out / OUTDATED_MANIFEST)
    return True


def _compare(out: Path, state: Path, mine: dict[str, Any]) -> None:
    try:
        recorded = read_json(state, "the state of an earlier run")
        require_schema(recorded, "build", str(state))
        old_config, old_pairs = with_current_names(recorded["config"]), recorded["pairs"]
    except InputError as error:
        raise OutputError(
            f"{state}: expected the state of an earlier run. Received something else: {error.message}",
            hint="Choose another --out, or start anew here with --force.",
        ) from None
    problems = [
        f"{section}.{key} was {old_config.get(section, {}).get(key)!r} and is now {value!r}"
        for section, table in mine["config"].items()
        for key, value in table.items()
        if old_config.get(section, {}).get(key) != value
    ]
    for pair, value in old_pairs.items():
        if pair not in mine["pairs"]:
            problems.append(f"pair {pair} is no longer in the table")
        elif mine["pairs"][pair] != value:
            problems.append(f"pair {pair} has another patient, another marker, or was hashed with another patient key")
    if problems:
        raise OutputError(
            f"{out}: the folder belongs to another run:\n" + "\n".join(f"  - {p}" for p in problems[:20]),
            hint="Choose another --out, or start anew here with --force.",
        )


def _foreign(out: Path) -> str | None:
    """The name of something in the folder that this run would overwrite or mix with."""
    with output_errors(out):
        names = sorted(p.name for p in out.iterdir())
    for name in names:
        if name in (MANIFEST, *_WRITTEN) or _SHARD.fullmatch(name):
            return name
        if name == WORK and any(p.name != f"{_STATE}.tmp" for p in (out / name).iterdir()):
            return name
    return None


def _clear(out: Path) -> None:
    with output_errors(out):
        for path in sorted(out.iterdir()):
            if path.name in (MANIFEST, OUTDATED_MANIFEST, *_WRITTEN) or _SHARD.fullmatch(path.name):
                path.unlink()
        if (out / WORK).is_dir():
            shutil.rmtree(out / WORK)
