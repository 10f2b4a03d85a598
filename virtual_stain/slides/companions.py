"""Files that a slide's index names: the pixels of a Hamamatsu VMS or VMU lie in them, wherever the index says.

They belong to the slide's content, and a reader that serves one folder must not follow an index out of it. What a file
is counts, not its suffix, for OpenSlide looks at the content, too. The index is read more leniently here than by
OpenSlide (GLib's key files): what it would open is among what is found, whatever else is.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from virtual_stain.errors import SlideError

_MAX_BYTES = 64 << 10  # an index is a page of text; OpenSlide reads no more either
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_FILE_KEYS = ("imagefile", "mapfile", "optimisationfile", "macroimage")


def is_index(path: Path) -> bool:
    """Whether the file is an index of others, a VMS or VMU, whatever it names. Raises OSError."""
    return _index_text(path) is not None


def named_files(path: Path) -> tuple[Path, ...]:
    """The files that a VMS or VMU index names, as it names them, without asking whether they are there.

    () for every file of another kind. Raises OSError; SlideError for an index that two readers could understand
    differently.
    """
    text = _index_text(path)
    if text is None:
        return ()
    names = dict.fromkeys(_names(text))
    if any("\\" in name or "\0" in name for name in names):  # GLib has escapes
        raise SlideError(f"{path}: expected an index with plain names of files. Received one with a backslash or NUL.")
    return tuple(path.parent / name for name in names)


def _index_text(path: Path) -> str | None:
    with path.open("rb") as stream:
        head = stream.read(_MAX_BYTES)
    return (
        None
        if head.startswith(_TIFF) or b"microscope specimen" not in head.lower()
        else head.decode("utf-8", "surrogateescape")
    )


def _names(text: str) -> Iterator[str]:
    """Of every section, of every line that could name a file: indented or not, with a locale or a number behind it."""
    for line in text.split("\n"):
        key, _, value = line.partition("=")
        if key.strip().lower().startswith(_FILE_KEYS) and value.strip():
            yield value.strip()
