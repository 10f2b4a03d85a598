"""What `vstain score` can make of a slide beside its report, without knowing what it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from virtual_stain.exporting.card import ModelCard
from virtual_stain.progress import Progress
from virtual_stain.report.report import SlideReport
from virtual_stain.scoring.predictor import Predictor
from virtual_stain.slides.slide import Slide


@dataclass(frozen=True, slots=True)
class Added:
    """What an addition says of a slide."""

    report: SlideReport
    """The report with its notes and flags."""
    columns: Mapping[str, Sequence[str]]
    """More columns of tiles.csv: a field for every tissue tile."""
    files: Mapping[str, Mapping[str, Any]]
    """Name of a file that was written → sha256 and bytes."""


class Addition(Protocol):
    """Made after a slide's tiles were read; picklable, for workers."""

    def require(self, model: Predictor) -> None:
        """Raises ModelError where the model cannot make it: before any slide is read."""

    def settings(self) -> dict[str, Any]:
        """What it depends on, its code included."""

    def names(self, stem: str, card: ModelCard) -> tuple[str, ...]:
        """Of the files that it writes."""

    def make(
        self, slide: Slide, report: SlideReport, model: Predictor, folder: Path, stem: str, progress: Progress
    ) -> Added:
        """Writes its files. Raises SlideError, ModelError, OutputError."""
