"""What `vstain count` does with what it was given: one slide into one folder, or many below it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from virtual_stain.counting.region_model import load_region_model
from virtual_stain.errors import ConfigError
from virtual_stain.progress import QUIET, Progress
from virtual_stain.workflows.count_many import CountManyOptions, collect_requests, count_many, is_many, told
from virtual_stain.workflows.count_slide import CountRequest, count_slide
from virtual_stain.workflows.count_summary import describe
from virtual_stain.workflows.many_page import INDEX_NAME

Say = Callable[[str], None]


def count_given(
    slides: Sequence[Path],
    table: Path | None,
    request: CountRequest,
    options: CountManyOptions,
    *,
    marker_given: bool,
    progress: Progress = QUIET,
    say: Say,
    say_aside: Say,
) -> None:
    """Counts what the command line names, and says each result.

    `request`: what holds for all slides; of one slide it is the request. `marker_given`: False where a table must
    state every marker. `say` is told the results, `say_aside` what was left out of a folder. Raises ConfigError and
    what counting raises.
    """
    if not is_many(slides, table) and options.scheduler is None:
        model = None if options.region_model is None else load_region_model(options.region_model)
        summary = count_slide(
            request, options.config, jobs=options.jobs, force=options.force, progress=progress, region_model=model
        )
        say(describe(summary, request.out))
        return
    for name, path in (("--roi", request.roi), ("--cells", request.cells)):
        if path is not None:
            raise ConfigError(
                f"{name}: expected with one slide. Received: with several.",
                hint="A table states it for each slide: slide,marker,mpp,roi,cells,name",
            )
    requests = collect_requests(slides, table, request, marker_given=marker_given, say=say_aside)
    try:
        count_many(requests, options, progress=progress, done=lambda one: say(told(one)))
    finally:
        say(f"page: {options.out / INDEX_NAME}")
