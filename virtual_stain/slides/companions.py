"""Files that a slide's index names: the pixels of a Hamamatsu VMS or VMU lie in them, wherever the index says.

They belong to the slide's content, and a reader that serves one folder must not follow an index out of it. What a file
is counts, not its suffix, for OpenSlide looks at the content, too.
"""

from __future__ import annotations

import configparser
from pathlib import Path

_SECTIONS = ("virtual microscope specimen", "uncompressed virtual microscope specimen")
_MAX_BYTES = 64 << 10  # an index is a page of text; OpenSlide reads no more either
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_FILE_KEYS = ("imagefile", "mapfile", "optimisationfile", "macroimage")


def named_files(path: Path) -> tuple[Path, ...]:
    """The files that a VMS or VMU index names, as it names them, without asking whether they are there.

    () for every file of another kind. Raises OSError.
    """
    with path.open("rb") as stream:
        head = stream.read(_MAX_BYTES)
    if head.startswith(_TIFF) or b"microscope specimen" not in head.lower():
        return ()
    parser = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",), comment_prefixes=("#",))
    try:
        parser.read_string(head.decode("latin-1"))
    except configparser.Error:
        return ()
    names = [
        value.strip()
        for section in parser.sections()
        if section.strip().lower() in _SECTIONS
        for key, value in parser.items(section)
        if key.startswith(_FILE_KEYS) and value and value.strip()
    ]
    return tuple(path.parent / name for name in dict.fromkeys(names))
