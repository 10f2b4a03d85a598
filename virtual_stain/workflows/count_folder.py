"""The folder of a count: whose it is, whether it is done, and files that take their places together at the end.

Files are made in a folder inside it and moved when all are there: whatever ends a run early, those of the run before
stay.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from virtual_stain.errors import InputError, OutputError
from virtual_stain.files import make_folder, output_errors, read_json, sha256_file, write_json
from virtual_stain.provenance import RunRecord, code_sha256, refuse_foreign_run
from virtual_stain.workflows.count_overlay import OVERLAY_NAME

COMMAND = "count"
_STAGING = ".counting"
_RUN = "run.json"
_STAIN, _REFUSED = "stain.png", "stain_refused.png"
_ALWAYS = ("cells.csv", "cells.geojson", "summary.json", "overlay.jpg", "overlay_full.jpg", _STAIN)
_OUTPUTS = (*_ALWAYS, OVERLAY_NAME)
_CODE = (
    "slides",
    "counting",
    "geojson.py",
    "geometry.py",
    "her2.py",
    "markers.py",
    "readings.py",
    "value_text.py",
    "workflows/count_folder.py",
    "workflows/count_overlay.py",
    "workflows/count_slide.py",
    "workflows/count_summary.py",
    "workflows/pyramid.py",
)


def refuse_other_run(out: Path, identity: dict[str, Any]) -> None:
    """Raises OutputError where `out` holds the files of another count."""
    present = [name for name in (*_OUTPUTS, _RUN) if (out / name).exists()]
    if present and _known(out).get("identity") != identity:
        raise OutputError(
            f"{out}: the folder already holds another run's output ({', '.join(present)}): another slide, "
            "region, marker, pixel size or other settings.",
            hint="Choose another --out, or replace it with --force.",
        )


def claim(out: Path, identity: dict[str, Any], *, force: bool) -> None:
    """Makes the folder this run's. Raises OutputError where it is another command's, or another count's and not
    `force`. A finished count stays as it is until `publish`."""
    refuse_foreign_run(out, COMMAND)
    if not force:
        refuse_other_run(out, identity)
    if _known(out).get("complete") is not True:
        write_json(out / _RUN, _unfinished(identity))


def finished(out: Path, identity: dict[str, Any], *, full_overlay: bool) -> dict[str, Any] | None:
    """The summary of a count that is done, by this code, with its files as it left them; else None."""
    run = _known(out)
    if run.get("complete") is not True or run.get("identity") != identity or run.get("code_sha256") != _code():
        return None
    wanted = {*_ALWAYS, OVERLAY_NAME} if full_overlay else set(_ALWAYS)
    files = run.get("files")
    if not isinstance(files, dict) or not wanted <= set(files) or files != _hashes(out):
        return None
    summary: dict[str, Any] = read_json(out / "summary.json", "the summary of a count")
    return summary


@contextlib.contextmanager
def staging(out: Path) -> Iterator[Path]:
    """An empty folder on the file system of `out`, gone in the end."""
    folder = out / _STAGING
    with output_errors(folder):
        shutil.rmtree(folder, ignore_errors=True)
        make_folder(folder)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def publish(made: Path, out: Path, identity: dict[str, Any], record: RunRecord) -> None:
    """Moves every file from `made` to `out`, takes away what this run did not make, and writes run.json last."""
    write_json(out / _RUN, _unfinished(identity))
    with output_errors(out):
        for name in (*_OUTPUTS, _REFUSED):
            if (made / name).exists():
                (made / name).replace(out / name)
            else:
                (out / name).unlink(missing_ok=True)
    record.extra = {"identity": identity, "code_sha256": _code(), "files": _hashes(out), "complete": True}
    record.write(out)


def show_refused_stain(made: Path, out: Path) -> Path:
    """Moves the picture of a stain that is not read to where it can be looked at; never beside another run's files
    under their name."""
    path = out / (_REFUSED if (out / "summary.json").exists() else _STAIN)
    with output_errors(path):
        (made / _STAIN).replace(path)
    return path


def _unfinished(identity: dict[str, Any]) -> dict[str, Any]:
    return {"command": COMMAND, "identity": identity, "complete": False}


def _known(out: Path) -> dict[str, Any]:
    """run.json as it stands; empty where there is none that can be read."""
    try:
        run = read_json(out / _RUN, "the record of a count")
    except InputError:
        return {}
    return run if isinstance(run, dict) else {}


def _code() -> str:
    return code_sha256(*_CODE)


def _hashes(out: Path) -> dict[str, str]:
    return {name: sha256_file(out / name) for name in _OUTPUTS if (out / name).exists()}
