"""Measures how long the sentences of Markdown pages are.

    python tools/sentence_length.py docs/training.md docs/records.md

prints for each page the number of sentences, their mean length in words, and the five longest with their lines.
Code blocks, tables, headings and formulas are left out. A list item or a paragraph ends a sentence.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(r"^\s*(```|~~~)")
_NOT_PROSE = re.compile(r"^\s*(\||#|<|!!!|\?\?\?|!\[|---+\s*$|:::)")
_ITEM = re.compile(r"^\s*(?:[-*+]|\d+\.)\s+")
_END = re.compile(r"(?<=[.!?])[)\"”*_]*\s+(?=[\"“(*_`\[]*[A-Z0-9`\[])")
_ABBREVIATIONS = ("e.g.", "i.e.", "etc.", "vs.", " al.", "No.", "cf.")


@dataclass(frozen=True)
class Sentence:
    """One sentence of a page, with the line (from 1) on which its paragraph begins."""

    line: int
    text: str

    @property
    def words(self) -> int:
        """Number of words; signs that stand alone (dashes, arrows) are none."""
        return sum(any(c.isalnum() for c in word) for word in self.text.split())


def _paragraphs(text: str) -> list[tuple[int, str]]:
    """Paragraphs and list items of prose with the line on which each begins."""
    found: list[tuple[int, str]] = []
    lines: list[str] = []
    begin, in_code, in_list = 0, False, False

    def close() -> None:
        if lines:
            found.append((begin, " ".join(lines)))
            lines.clear()

    for number, line in enumerate(text.splitlines(), 1):
        if _FENCE.match(line):
            close()
            in_code = not in_code
            continue
        if in_code:
            continue
        indented_code = line.startswith("    ") and not lines and not in_list
        if not line.strip() or _NOT_PROSE.match(line) or indented_code:
            close()
            if re.match(r"^(!!!|\?\?\?)", line):
                in_list = True
            elif line and not line[0].isspace():
                in_list = False
            continue
        if _ITEM.match(line):
            close()
            in_list = True
        elif not line[0].isspace() and not lines:
            in_list = False
        if not lines:
            begin = number
        lines.append(_ITEM.sub("", line).strip())
    close()
    return found


def sentences(text: str) -> list[Sentence]:
    """The sentences of a Markdown page, in order."""
    found = []
    for line, paragraph in _paragraphs(text):
        paragraph = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", paragraph)
        pieces: list[str] = []
        for piece in _END.split(paragraph):
            if pieces and pieces[-1].endswith(_ABBREVIATIONS):
                pieces[-1] += f" {piece}"
            else:
                pieces.append(piece)
        found += [Sentence(line, piece.strip()) for piece in pieces if any(c.isalnum() for c in piece)]
    return found


def mean_words(text: str) -> float:
    """Mean number of words in a sentence of a Markdown page; 0 for a page without sentences."""
    lengths = [sentence.words for sentence in sentences(text)]
    return sum(lengths) / len(lengths) if lengths else 0.0


def main(paths: list[str]) -> None:
    """Prints the measure of each page."""
    for path in paths:
        text = Path(path).read_text()
        print(f"{path}: {len(sentences(text))} sentences, {mean_words(text):.1f} words on average")
        for sentence in sorted(sentences(text), key=lambda s: -s.words)[:5]:
            print(f"  line {sentence.line}, {sentence.words} words: {sentence.text[:110]}")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("Expected Markdown files. Usage: python tools/sentence_length.py FILE…")
    main(sys.argv[1:])
