"""Pairs of slides in a folder, told by their names: the same name but for the word of the stain at its end."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from virtual_stain.errors import PairError
from virtual_stain.pairs import read_pairs
from virtual_stain.slides.slide import SlideRef

_SUFFIXES = {
    *(".ndpi", ".svs", ".mrxs", ".tif", ".tiff", ".scn", ".bif", ".vms", ".dcm", ".png", ".jpg", ".jpeg", ".svslide")
}
_HE = ("he", "h&e", "h-e", "hande")
_IHC = ("ihc", "ki67", "ki-67", "er", "pr", "her2", "pdl1", "pd-l1")
_WORD = re.compile(rf"^(?P<name>.+?)[ _.-]+(?P<stain>{'|'.join(re.escape(w) for w in (*_HE, *_IHC))})$", re.IGNORECASE)
_EXAMPLE = "block7_he.ndpi and block7_ki67.ndpi"


@dataclass(frozen=True, slots=True)
class NamedPair:
    """A pair to register."""

    pair: str
    he: SlideRef
    ihc: SlideRef


def cohort_pairs(source: Path) -> list[NamedPair]:
    """The pairs of a table (PAIRS.csv), of a folder that holds one, or of a folder of slides. Raises PairError."""
    if source.is_dir():
        for name in ("PAIRS.csv", "pairs.csv"):
            if (source / name).is_file():
                return cohort_pairs(source / name)
        return _by_name(source)
    if source.suffix.lower() != ".csv":
        raise PairError(
            f"{source}: expected two slides, a table of pairs (PAIRS.csv), or a folder. Received: one file.",
            hint="vstain register HE IHC --out DIR, or vstain register PAIRS.csv --out DIR",
        )
    return [NamedPair(p.pair, p.he, p.ihc) for p in read_pairs(source)]


def _by_name(folder: Path) -> list[NamedPair]:
    he: dict[str, list[Path]] = {}
    ihc: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in _SUFFIXES or path.name.startswith("."):
            continue
        found = _WORD.match(SlideRef(path).stem)
        if found is not None:
            side = he if found["stain"].lower() in _HE else ihc
            side.setdefault(found["name"], []).append(path)
    problems = [f"{name}: {len(he.get(name, []))} H&E and {len(ihc.get(name, []))} IHC slides"
                for name in sorted({*he, *ihc})
                if len(he.get(name, [])) != 1 or len(ihc.get(name, [])) != 1]  # fmt: skip
    if problems or not he:
        raise PairError(
            f"{folder}: expected one H&E and one IHC slide of each name, as {_EXAMPLE}. Received:"
            + ("\n  - " + "\n  - ".join(problems) if problems else " no slides named like that."),
            hint="List the pairs in a table instead: pair,patient,marker,he,ihc",
        )
    return [NamedPair(name, SlideRef(he[name][0]), SlideRef(ihc[name][0])) for name in sorted(he)]
