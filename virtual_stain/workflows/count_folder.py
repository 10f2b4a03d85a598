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

from virtual_stain.config.load import with_current_names
from virtual_stain.errors import OutputError
from virtual_stain.files import make_folder, output_errors, read_json, write_json
from virtual_stain.provenance import RunRecord, refuse_foreign_run
from virtual_stain.reuse import MADE_FROM, MadeFrom, is_finished, publish, read_record
from virtual_stain.workflows.count_overlay import OVERLAY_NAME
from virtual_stain.workflows.count_page import PAGE_NAME

COMMAND = "count"
_STAGING = ".counting"
_RUN = "run.json"
_STAIN, _REFUSED = "stain.png", "stain_refused.png"
_ALWAYS = ("cells.csv", "cells.geojson", "summary.json", "overlay.jpg", "overlay_full.jpg", _STAIN, PAGE_NAME)
_OUTPUTS = (*_ALWAYS, OVERLAY_NAME)


def refuse_other_run(out: Path, made: MadeFrom) -> None:
    """Raises OutputError where `out` holds the files of another count."""
    present = [name for name in (*_OUTPUTS, _RUN) if (out / name).exists()]
    if present and not made.is_same_request(_recorded(out)):
        raise OutputError(
            f"{out}: the folder already holds another run's output ({', '.join(present)}): another slide, "
            "region, marker, pixel size or other settings.",
            hint="Choose another --out, or replace it with --force.",
        )


def _recorded(out: Path) -> object:
    """What the count in `out` was made from; under the names of today where an earlier version has written it."""
    record = read_record(out / _RUN)
    if MADE_FROM in record:
        return record[MADE_FROM]
    earlier = record.get("identity")
    try:
        return {**earlier, "settings": with_current_names(earlier["settings"])} if isinstance(earlier, dict) else None
    except (KeyError, TypeError, AttributeError):
        return None


def claim(out: Path, made: MadeFrom, *, force: bool) -> None:
    """Makes the folder this run's. Raises OutputError where it is another command's, or another count's and not
    `force`. A finished count stays as it is until `take_places`."""
    refuse_foreign_run(out, COMMAND)
    if not force:
        refuse_other_run(out, made)
    if read_record(out / _RUN).get("complete") is not True:
        write_json(out / _RUN, _unfinished(made))


def finished(out: Path, made: MadeFrom, *, full_overlay: bool) -> dict[str, Any] | None:
    """The summary of a count that is done, made from the same, with its files as it left them; else None."""
    wanted = (*_ALWAYS, OVERLAY_NAME) if full_overlay else _ALWAYS
    if not is_finished(read_record(out / _RUN), made, out, wanted):
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


def take_places(staged: Path, out: Path, made: MadeFrom, record: RunRecord) -> None:
    """Moves every file from `staged` to `out`, takes away what this run did not make, and writes run.json last."""
    write_json(out / _RUN, _unfinished(made))
    with output_errors(out):
        for name in (*_OUTPUTS, _REFUSED):
            if (staged / name).exists():
                (staged / name).replace(out / name)
            else:
                (out / name).unlink(missing_ok=True)
    publish(out / _RUN, made, _OUTPUTS, {**record.to_json(), "complete": True})


def show_refused_stain(staged: Path, out: Path) -> Path:
    """Moves the picture of a stain that is not read to where it can be looked at; never beside another run's files
    under their name."""
    path = out / (_REFUSED if (out / "summary.json").exists() else _STAIN)
    with output_errors(path):
        (staged / _STAIN).replace(path)
    return path


def _unfinished(made: MadeFrom) -> dict[str, Any]:
    return {"command": COMMAND, MADE_FROM: made.to_json(), "complete": False}
