"""`vstain score --path`: which of the two ways from H&E to a value a slide is read by, and what is made for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from virtual_stain.config import CountingSettings
from virtual_stain.errors import ConfigError, ModelError
from virtual_stain.exporting.card import ModelCard
from virtual_stain.progress import Progress
from virtual_stain.report.report import SlideReport
from virtual_stain.scoring.predictor import Predictor
from virtual_stain.slides.slide import Slide
from virtual_stain.workflows.score_addition import Added, Addition
from virtual_stain.workflows.score_slides import ScoreOptions
from virtual_stain.workflows.score_virtual import IndirectModel, VirtualSlides, require_path

PATHS = ("direct", "indirect", "both")


@dataclass(frozen=True, slots=True)
class DirectOnly:
    """Adds nothing, and takes no indirect model."""

    def require(self, model: Predictor) -> None:
        """Raises ModelError for a model of the indirect path."""
        require_path(model.card, "direct", "--path direct")

    def settings(self) -> dict[str, Any]:
        return {"path": "direct"}

    def names(self, stem: str, card: ModelCard) -> tuple[str, ...]:
        return ()

    def make(
        self, slide: Slide, report: SlideReport, model: Predictor, folder: Path, stem: str, progress: Progress
    ) -> Added:
        return Added(report, {}, {})


def drawn_where_possible(model: Predictor, counting: CountingSettings) -> Addition | None:
    """Virtual slides of a model that can draw them; None for every other model."""
    drawn = VirtualSlides(counting)
    if model.card.training.get("path") != "indirect":
        return None
    try:
        drawn.require(model)
    except ModelError:  # an older bundle, overlapping windows, a server's REST port: its readings alone
        return None
    return drawn


def addition_of_path(
    path: str | None,
    *,
    virtual_slide: bool,
    indirect_model: str | None,
    options: ScoreOptions,
    counting: CountingSettings,
) -> Addition | None:
    """What a run makes of its slides beside the readings that its model answers.

    `path`: of PATHS; None: what the model is, without drawing. `indirect_model`: the second model of "both". Raises
    ConfigError for words that contradict each other.
    """
    if path != "both" and indirect_model is not None:
        raise ConfigError(
            f"--indirect-model: expected --path both. Received: {'no --path' if path is None else f'--path {path}'}.",
            hint="vstain score SLIDE --model DIRECT --path both --indirect-model INDIRECT",
        )
    if path == "both":
        if indirect_model is None:
            raise ConfigError(
                "--path both: expected two models. Received: one.",
                hint="vstain score SLIDE --model DIRECT --path both --indirect-model INDIRECT",
            )
        # a worker of a cluster stands in another folder
        found = indirect_model if "://" in indirect_model else str(Path(indirect_model).absolute())
        second = IndirectModel(model=found, scoring=options.scoring, trusted_key=options.trusted_key)
        return VirtualSlides(counting, virtual_slide, second)
    if path == "direct":
        if virtual_slide:
            raise ConfigError(
                "--virtual-slide: expected --path indirect or both, which draw slides. Received: --path direct."
            )
        return DirectOnly()
    return VirtualSlides(counting, virtual_slide) if virtual_slide or path == "indirect" else None
