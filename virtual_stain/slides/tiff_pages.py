"""The pages of a TIFF file, as many as a slide can have."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import tifffile

MAX_PAGES = 200


def tiff_pages(file: tifffile.TiffFile) -> list[Any]:
    """The first pages of an open file. Directories that lead back to earlier ones end the list.

    To iterate over `file.pages` would never end there: only their number knows of the loop.
    """
    return [file.pages[index] for index in range(min(len(file.pages), MAX_PAGES))]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without tifffile's log of what it finds odd about a file: what matters of it is refused or told."""
    log = logging.getLogger("tifffile")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before
