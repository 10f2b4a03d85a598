"""Which files of a folder are slides, by their endings: one list for every verb that takes folders."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

SCANS = frozenset({".ndpi", ".svs", ".tif", ".tiff", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".svslide"})
"""One file a slide, which says its pixel size as a rule."""
DICOM = frozenset({".dcm"})
"""Many files a slide."""
IMAGES = frozenset({".png", ".jpg", ".jpeg"})
"""Plain images, without a pixel size."""
SLIDE_ENDINGS = SCANS | DICOM | IMAGES

_NAMED = 10


def left_out_text(folder: Path, taken: int, left_out: Sequence[tuple[Path, str]]) -> str:
    """A sentence for people; `left_out`: files and why each was not taken."""
    by_reason: dict[str, list[str]] = {}
    for path, reason in left_out:
        by_reason.setdefault(reason, []).append(path.name)
    parts = [f"{', '.join(names[:_NAMED])}{_more(names)} ({reason})" for reason, names in by_reason.items()]
    return f"{folder}: {taken} of {taken + len(left_out)} files taken. Left out: {'; '.join(parts)}."


def similar_names(path: Path) -> str:
    """A hint for a file that is not there."""
    try:
        names = sorted(entry.name for entry in path.parent.iterdir())
    except OSError:
        return f"There is no folder {path.parent}, seen from {Path.cwd()}."
    close = difflib.get_close_matches(path.name, names, n=3, cutoff=0.7)
    if close:
        return f"Did you mean {' or '.join(str(path.parent / name) for name in close)}?"
    return f"Paths count from {Path.cwd()}; look there: ls {path.parent}"


def _more(names: Sequence[str]) -> str:
    return f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
