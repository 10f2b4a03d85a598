"""`index.html`: many slides on one page, worst first, each with its picture and the way to its own page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

from virtual_stain.pages import page_environment
from virtual_stain.version import __version__

INDEX_NAME = "index.html"
RESEARCH_USE = "Research use only. Not a medical device."
ORDER = ("failed", "pending", "doubtful", "good")
"""Worst first."""
_WORDS = {"failed": "failed", "pending": "not begun", "doubtful": "doubtful", "good": "no warnings"}


@dataclass(frozen=True, slots=True)
class PageRow:
    """One slide on the page."""

    name: str
    state: str
    """One of ORDER."""
    headline: str = ""
    """Its reading, in words."""
    notes: tuple[str, ...] = ()
    """Why it failed, or what makes it doubtful."""
    page: str | None = None
    """Path of its own page, relative to the index; None: it has none."""
    picture: str | None = None
    """Path of its picture, relative to the index."""
    model_doubt: str = ""
    """What is doubtful about the model; said once at the top of the page."""


def many_page(title: str, rows: Sequence[PageRow], table: str, *, noun: str = "slide") -> str:
    """The page's text; `table`: name of the table of the same slides, beside it. `noun`: what a row is."""
    ordered = sorted(rows, key=lambda row: (ORDER.index(row.state), row.name.casefold()))
    counted = Counter(row.state for row in rows)
    return (
        page_environment("virtual_stain.workflows")
        .get_template("many.html")
        .render(
            title=title,
            notice=RESEARCH_USE,
            model_doubts=list(dict.fromkeys(row.model_doubt for row in rows if row.model_doubt)),
            rows=ordered,
            words=_WORDS,
            counts=[(state, counted[state]) for state in ORDER if counted[state]],
            table=table,
            noun=noun,
            href=quote,
            version=__version__,
        )
    )
