"""What `vstain score` does with what it was given: the slides that are there, or those that come into a folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from virtual_stain.config import CountingSettings
from virtual_stain.errors import ConfigError
from virtual_stain.progress import QUIET, Progress
from virtual_stain.report.table import SCORES_CSV
from virtual_stain.scoring.inputs import collect_inputs
from virtual_stain.workflows.many_page import INDEX_NAME
from virtual_stain.workflows.score_many import score_slides
from virtual_stain.workflows.score_slides import Scored, ScoreOptions
from virtual_stain.workflows.score_watch import watch
from virtual_stain.workflows.score_words import model_doubt, told

Say = Callable[[str], None]


def score_given(
    slides: Sequence[Path],
    table: Path | None,
    options: ScoreOptions,
    *,
    out: Path | None,
    mpp: tuple[float, float] | None,
    scheduler: str | None = None,
    watching: bool = False,
    path: str | None = None,
    virtual_slide: bool = False,
    indirect_model: str | None = None,
    counting: CountingSettings | None = None,
    progress: Progress = QUIET,
    say: Say,
    say_aside: Say,
) -> None:
    """Scores what the command line names, and says each reading.

    `watching`: the only slide is a folder; what comes into it is scored until the run is stopped. `path`,
    `virtual_slide`, `indirect_model`: see `addition_of_path`; `counting`: how drawn tiles are counted. `say` is told
    the readings, `say_aside` what was left out of a folder. Raises ConfigError and what scoring raises.
    """
    if path is not None or virtual_slide or indirect_model is not None:
        from virtual_stain.workflows.score_path import addition_of_path  # counting: not for those who only score

        added = addition_of_path(
            path,
            virtual_slide=virtual_slide,
            indirect_model=indirect_model,
            options=options,
            counting=counting or CountingSettings(),
        )
        options = dataclasses.replace(options, addition=added)

    model_doubts: set[str] = set()

    def done(scored: Scored) -> None:
        doubt = model_doubt(scored.report or {})
        if doubt and doubt not in model_doubts:  # it holds for every slide: said once
            say_aside(f"The model: {doubt}")
        model_doubts.add(doubt)
        say(told(scored))

    if not watching:
        inputs = collect_inputs(slides, table, out=out, mpp=mpp, say=say_aside)
        try:
            score_slides(inputs, options, scheduler=scheduler, progress=progress, done=done)
        finally:
            if out is not None and (out / INDEX_NAME).exists():
                say_aside(f"All slides: {out / INDEX_NAME}; table: {out / SCORES_CSV}")
        return
    if len(slides) != 1 or table is not None or out is None or scheduler is not None:
        raise ConfigError(
            "--watch: expected one folder and --out, and no --slides or --scheduler.",
            hint="vstain score --watch scanner/ --model MODEL --out results",
        )
    watch(slides[0], out, options, mpp=mpp, progress=progress, done=done)
