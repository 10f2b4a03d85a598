"""`vstain score --watch IN --out OUT`: for a scanner that writes slides all day. Ends with Ctrl-C or SIGTERM."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from virtual_stain.errors import BatchError, InputError, VirtualStainError
from virtual_stain.files import make_folder
from virtual_stain.geometry import Size
from virtual_stain.progress import QUIET, Progress
from virtual_stain.provenance import Outcome, RunRecord, refuse_foreign_run
from virtual_stain.scoring.inputs import ScoreInput
from virtual_stain.scoring.open_model import open_predictor
from virtual_stain.scoring.predictor import Predictor
from virtual_stain.slides.collection import expand, name_key
from virtual_stain.slides.probe import require_survivable
from virtual_stain.slides.slide import SlideRef, open_slide
from virtual_stain.workflows.score_index import page_row, write_index
from virtual_stain.workflows.score_many import score_slides
from virtual_stain.workflows.score_slides import Scored, ScoreOptions
from virtual_stain.workflows.score_table import earlier_reports, write_table

_CORNER_PX = 64
State = tuple[int, int]
"""Size and time of last change (ns) of a file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """When a slide is taken, in seconds."""

    every_s: float = 10.0
    """The folder is looked through so often."""
    still_s: float = 30.0
    """A file that has not grown for so long may be whole."""
    give_up_s: float = 600.0
    """A file that has been still for so long and cannot be read is told of as failed; a change gives it a new try."""


@dataclass(slots=True)
class _Seen:
    state: State
    since: float
    settled: bool = False
    """Scored, or told of as failed."""


def watch(
    folder: Path,
    out: Path,
    options: ScoreOptions,
    *,
    mpp: tuple[float, float] | None = None,
    patience: Patience | None = None,
    predictor: Predictor | None = None,
    progress: Progress = QUIET,
    done: Callable[[Scored], None] = lambda _: None,
) -> None:
    """Scores each slide below `folder` when it is whole, until KeyboardInterrupt; then ends.

    Results are named after the slide and the folders between it and `folder`, so that the name of one slide never
    depends on which others have come. scores.csv, index.html and run.json are those of all slides so far.
    Raises InputError for a folder that is not there; ModelError, OutputError; at the end BatchError where some failed.
    """
    if not folder.is_dir():
        raise InputError(
            f"{folder}: expected a folder to watch. Received: {'a file' if folder.exists() else 'nothing'}"
        )
    refuse_foreign_run(make_folder(out), "score")
    model = predictor or open_predictor(options.model, options.scoring, options.trusted_key)
    run = _Watch(folder, out, options, mpp, patience or Patience(), model, progress, done)
    try:
        progress.say(f"{folder}: watched; Ctrl-C ends it.")
        while True:
            run.look()
            time.sleep(run.patience.every_s)
    except KeyboardInterrupt:  # the way to end it; SIGTERM is told as the same
        progress.say(f"{folder}: no longer watched. {len(run.results)} slides were taken.")
    finally:
        if predictor is None:
            model.close()
    failed = [r.outcome for r in run.results.values() if not r.outcome.ok]
    if failed:
        lines = "\n".join(f"  - {o.name}: {o.reason}" for o in failed[:20])
        raise BatchError(f"{len(failed)} of {len(run.results)} slides could not be scored:\n{lines}")


class _Watch:
    """What is known of the folder, between two looks at it."""

    def __init__(
        self,
        folder: Path,
        out: Path,
        options: ScoreOptions,
        mpp: tuple[float, float] | None,
        patience: Patience,
        model: Predictor,
        progress: Progress,
        done: Callable[[Scored], None],
    ) -> None:
        self.patience = patience
        self.results: dict[str, Scored] = {}
        self._folder, self._out, self._options, self._mpp = folder, out, options, mpp
        self._model, self._progress, self._done = model, progress, done
        self._seen: dict[Path, _Seen] = {}
        self._items: dict[str, ScoreInput] = {}
        self._names: dict[str, Path] = {}
        self._record = RunRecord("score", extra={"model": options.model, "model_sha256": model.sha256})
        self._earlier = earlier_reports(out, set())

    def look(self) -> None:
        """Goes through the folder once, and scores what is whole."""
        for path in self._slides():
            try:
                state = path.stat().st_size, path.stat().st_mtime_ns
            except OSError:
                continue  # moved away meanwhile
            now = time.monotonic()
            seen = self._seen.get(path)
            if seen is None or seen.state != state:
                self._seen[path] = _Seen(state, now)
            elif not seen.settled and now - seen.since >= self.patience.still_s:
                self._take(path, seen, now)

    def _slides(self) -> list[Path]:
        try:
            found = expand(self._folder, images=self._mpp is not None)
        except InputError:  # none yet
            return []
        out = self._out.resolve()
        return [p for p in found if out not in p.resolve().parents]

    def _take(self, path: Path, seen: _Seen, now: float) -> None:
        name = "-".join([*path.relative_to(self._folder).parts[:-1], SlideRef(path).stem])
        item = ScoreInput(SlideRef(path, self._mpp, name), self._out)
        reason = _unreadable(item.ref)
        if reason is not None and now - seen.since < self.patience.give_up_s:
            return
        seen.settled = True
        other = self._names.setdefault(name_key(name), path)
        if other != path:
            reason = f"{path}: expected a name of its own. Received: that of {other}"
            name = f"{name}{path.suffix}"
            item = ScoreInput(SlideRef(path, self._mpp, name), self._out)
        scored = self._score(item) if reason is None else Scored(Outcome(name, False, reason), self._out)
        self._note(item, scored)

    def _score(self, item: ScoreInput) -> Scored:
        ended: list[Scored] = []
        try:
            score_slides([item], self._options, predictor=self._model, progress=self._progress, done=ended.append)
        except Exception:
            if not ended:  # no fault of the slide: a full disk, the model
                raise
        return ended[0]

    def _note(self, item: ScoreInput, scored: Scored) -> None:
        self._items[item.stem], self.results[item.stem] = item, scored
        self._earlier.pop(item.stem, None)
        items, results = list(self._items.values()), list(self.results.values())
        write_table(self._out, items, results, self._model.card, self._earlier, excel=self._options.excel)
        write_index(self._out, [page_row(r) for r in results], self._earlier)
        self._record.outcomes = [r.outcome for r in results]
        self._record.write(self._out, tensorflow=True)
        self._done(scored)


def _unreadable(ref: SlideRef) -> str | None:
    """Why the slide's last tile cannot be read; None where it can. Scanners write the levels and tiles in order."""
    try:
        require_survivable(ref)
        with open_slide(ref) as slide:
            size = Size(_CORNER_PX, _CORNER_PX)
            for level in range(slide.level_count):
                side = _CORNER_PX * slide.level_downsamples[level]  # level-0 px
                end = slide.bounds.x1 - side, slide.bounds.y1 - side
                slide.read_level(level, max(slide.bounds.x, end[0]), max(slide.bounds.y, end[1]), size)
    except VirtualStainError as error:
        return error.message
    return None
