"""Pairs of slides in a folder, told by their names: the same name but for the word of the stain at its end."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from virtual_stain.errors import ConfigError, PairError
from virtual_stain.markers import parse_marker
from virtual_stain.pairs import SlidePair, StainPair, read_pairs, read_slide_pairs
from virtual_stain.slides.endings import SLIDE_ENDINGS
from virtual_stain.slides.slide import SlideRef

_HE = r"h&e|h-e|he|hes|hande"
# antibodies go by such names; a word that is none of them (label, mask, PAS) is said and not taken for an IHC slide
_MARKERS = r"ihc|dab|er|pr|ar|her-?2|pd-?l1|pd-?1|ki-?67"
_OTHERS = r"p16|p40|p53|p57|p63|p504s|cd-?\d{1,3}[a-z]?|ck-?\d{1,2}|panck|gata-?3|ttf-?1"
_WORD = re.compile(rf"^(?P<name>.+?)[ _.-]+(?:(?P<he>{_HE})|(?P<ihc>{_MARKERS}|{_OTHERS}))$", re.IGNORECASE)
_EXAMPLE = "block7_he.ndpi and block7_ki67.ndpi"
_NAMED = 10
_TABLES = ("PAIRS.csv", "pairs.csv")
_TABLE = "List the pairs in a table instead: pair,he,ihc"

Say = Callable[[str], None]


def cohort_pairs(source: Path, say: Say = lambda _: None) -> list[SlidePair]:
    """The pairs of a table (PAIRS.csv), of a folder that holds one, or of a folder of slides; `say` is told which
    slides of a folder belong to none. Raises PairError."""
    if source.is_dir():
        table = listed_table(source)
        return _by_name(source, say) if table is None else cohort_pairs(table)
    if source.suffix.lower() != ".csv":
        raise PairError(
            f"{source}: expected two slides, a table of pairs (PAIRS.csv), or a folder. Received: one file.",
            hint="vstain register HE IHC --out DIR, or vstain register PAIRS.csv --out DIR",
        )
    return list(read_slide_pairs(source))


def listed_table(source: Path) -> Path | None:
    """The table of pairs: the file itself, or the one that lies in a folder; None: a folder without a table."""
    if not source.is_dir():
        return source
    return next((source / name for name in _TABLES if (source / name).is_file()), None)


@dataclass(slots=True)
class _Block:
    """The slides of one name; spelt as its first one."""

    name: str
    he: list[Path] = field(default_factory=list)
    ihc: list[tuple[str, Path]] = field(default_factory=list)
    """(word of the stain, file)."""

    def pairs(self) -> Iterator[SlidePair]:
        """One for each IHC slide; the stain is part of the name where there are several."""
        for word, path in self.ihc:
            name = self.name if len(self.ihc) == 1 else f"{self.name}-{word}"
            yield SlidePair(name, SlideRef(self.he[0]), SlideRef(path))


def listed_pairs(source: Path, n_folds: int, say: Say) -> tuple[tuple[StainPair, ...], Path | None]:
    """The pairs of a table or a folder for records, and the table; None: a folder without one. Raises PairError."""
    table = listed_table(source)
    return (folder_stain_pairs(source, say) if table is None else read_pairs(table, n_folds=n_folds)), table


def folder_stain_pairs(folder: Path, say: Say = lambda _: None) -> tuple[StainPair, ...]:
    """The pairs of a folder of slides with what records need beside them: the marker is the word of the stain, and each
    name is a patient of its own. Raises PairError."""
    found: list[StainPair] = []
    problems: list[str] = []
    for block in _blocks(folder, say):
        for (word, _), pair in zip(block.ihc, block.pairs(), strict=True):
            try:
                found.append(StainPair(pair.pair, block.name, parse_marker(word), pair.he, pair.ihc))
            except ConfigError as error:
                problems.append(f"{pair.ihc.path.name}: {error.message}")
    if problems:
        raise PairError(
            f"{folder}: the names do not say which marker the IHC slides are stained for:\n  - "
            + "\n  - ".join(problems),
            hint=f"Name them as in {_EXAMPLE}, or list them in a table: pair,patient,marker,he,ihc",
        )
    say(
        f"{folder}: {len(found)} pairs of {len({p.patient for p in found})} names. Each name counts as a patient of "
        "its own: if one has several blocks, list the pairs in a table (pair,patient,marker,he,ihc), or the model is "
        "tested on patients that it was trained on."
    )
    return tuple(found)


def _by_name(folder: Path, say: Say) -> list[SlidePair]:
    return [pair for block in _blocks(folder, say) for pair in block.pairs()]


def _blocks(folder: Path, say: Say) -> list[_Block]:
    blocks: dict[str, _Block] = {}
    ignored: list[str] = []
    no_slides: list[str] = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.is_file():
            continue
        if path.suffix.lower() not in SLIDE_ENDINGS:
            no_slides.append(path.name)
            continue
        # one spelling of é, and no difference between Block7 and block7: both are one name to a person
        found = _WORD.match(unicodedata.normalize("NFC", SlideRef(path).stem))
        if found is None:
            ignored.append(path.name)
            continue
        block = blocks.setdefault(found["name"].casefold(), _Block(found["name"]))
        if found["he"]:
            block.he.append(path)
        else:
            block.ihc.append((found["ihc"].lower(), path))
    if ignored:
        say(f"{folder}: no stain is told by the names of, so they are in no pair: {', '.join(ignored)}. {_TABLE}")
    if no_slides:
        say(f"{folder}: {len(no_slides)} files are no slides: {', '.join(no_slides[:_NAMED])}")
    ordered = [blocks[key] for key in sorted(blocks)]
    _check(folder, ordered)
    return ordered


def _check(folder: Path, blocks: list[_Block]) -> None:
    problems = [f"{b.name}: {len(b.he)} H&E and {len(b.ihc)} IHC slides" for b in blocks if len(b.he) != 1 or not b.ihc]
    if not problems:
        names = Counter(pair.pair.casefold() for block in blocks for pair in block.pairs())
        problems = [f"{name}: {n} pairs of this name" for name, n in names.items() if n > 1]
    if problems or not blocks:
        raise PairError(
            f"{folder}: expected one H&E and one IHC slide or more of each name, as {_EXAMPLE}. Received:"
            + ("\n  - " + "\n  - ".join(problems) if problems else " no slides named like that."),
            hint=_TABLE,
        )
