"""Which other files a library opens when it is given a slide: at least all of them, never fewer.

A slide below the root that points out of it would be read all the same, and shown. Formats of several files are known
by what OpenSlide knows them by: an index by its text, DICOM by its magic bytes, MIRAX by its suffix.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from virtual_stain.slides.companions import is_index, named_files

_MIRAX, _SLIDEDAT = ".mrxs", "slidedat.ini"
_MIRAX_KEYS = ("file_", "indexfile")
_MAX_BYTES = 4 << 20
_DICOM_AT, _DICOM = 128, b"DICM"


def files_behind(path: Path) -> Iterator[Path]:
    """Files that may be opened beside `path`. Raises OSError, SlideError; ValueError for what cannot be understood."""
    if is_index(path):
        names = named_files(path)
        if not names:
            raise ValueError("an index that names no file")
        yield from names
    if path.suffix.lower() == _MIRAX:
        yield from _of_mirax(path.with_suffix(""))
    if is_dicom(path):  # OpenSlide looks for the series' other instances in the whole folder
        yield from (other for other in path.parent.iterdir() if not other.is_dir())


def is_dicom(path: Path) -> bool:
    """Whether the file has the magic bytes of DICOM. Raises OSError."""
    with path.open("rb") as stream:
        stream.seek(_DICOM_AT)
        return stream.read(len(_DICOM)) == _DICOM


def _of_mirax(folder: Path) -> Iterator[Path]:
    for index in folder.iterdir():
        yield index
        if index.name.lower() != _SLIDEDAT:
            continue
        with index.open("rb") as stream:
            data = stream.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise ValueError("an index that is too long")
        for line in data.decode("utf-8", "surrogateescape").split("\n"):
            key, _, value = line.partition("=")
            if key.strip().lower().startswith(_MIRAX_KEYS) and value.strip():
                if "\\" in value or "\0" in value:
                    raise ValueError("an index with escapes")
                yield folder / value.strip()
