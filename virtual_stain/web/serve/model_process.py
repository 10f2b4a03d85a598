"""The model process of `vstain serve`: one, outside the web process, so that TensorFlow's memory and its crashes are
not the pages'. `python -m virtual_stain.web.serve.model_process OUT` is started and watched by the web process.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from virtual_stain.config import Config
from virtual_stain.config.load import config_from_dict
from virtual_stain.errors import InputError, ModelError, VirtualStainError
from virtual_stain.files import file_lock, make_folder, read_json, write_json
from virtual_stain.scoring.inputs import ScoreInput
from virtual_stain.scoring.open_model import open_predictor
from virtual_stain.scoring.predictor import Predictor
from virtual_stain.slides.slide import SlideRef
from virtual_stain.web.problem import ApiError, public
from virtual_stain.web.serve.jobs import Job, JobStore, State
from virtual_stain.web.serve.root import SlideRoot
from virtual_stain.workflows.score_many import score_slides
from virtual_stain.workflows.score_path import drawn_where_possible
from virtual_stain.workflows.score_slides import ScoreOptions

T = TypeVar("T")
SETTINGS = "serve.json"
IDENTITY = "slide.json"
LOCK = ".model-process.lock"
_IDLE_S = 0.25
_REPORT_S = 0.4
_STOP_S = 10.0


class Cancelled(BaseException):
    """Somebody does not want the result any more. No Exception: a slide's failures are caught, this is none."""


class Stopped(BaseException):
    """The server goes down."""


class _Stopping:
    """Set by the signal, looked at between tiles: an exception out of a signal handler would be lost wherever it meets
    somebody else's code."""

    def __init__(self) -> None:
        self._set = threading.Event()

    def begin(self, *_: object) -> None:
        self._set.set()
        # a library that does not come back must not outlive the server; the slide is then taken up as after a crash
        timer = threading.Timer(_STOP_S, os._exit, (1,))
        timer.daemon = True
        timer.start()

    def check(self) -> None:
        if self._set.is_set():
            raise Stopped

    def wait(self, seconds: float) -> None:
        self._set.wait(seconds)
        self.check()


STOPPING = _Stopping()


class JobProgress:
    """Writes progress into the job, and ends the work where that is wanted."""

    def __init__(self, store: JobStore, number: int) -> None:
        self._store, self._number, self._last = store, number, 0.0

    def track(self, items: Iterable[T], total: int, label: str, unit: str = "it") -> Iterator[T]:
        since = None
        for done, item in enumerate(items):
            STOPPING.check()
            since = since or time.time()
            self.note("scoring", done, total, since)
            yield item
        self.note("report", total, total, since, always=True)

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def note(self, stage: str, done: int, total: int | None, since: float | None, *, always: bool = False) -> None:
        STOPPING.check()
        now = time.monotonic()
        if always or now - self._last >= _REPORT_S:
            self._last = now
            if self._store.report(self._number, stage, done, total, since):
                raise Cancelled


def write_settings(out: Path, config: Config, root: Path, models: dict[str, str], jobs: int) -> None:
    """What the model process is to know; read again at each of its starts."""
    value = {"config": config.to_dict(), "root": str(root), "models": models, "jobs": jobs}
    write_json(out / SETTINGS, value)


def result_folder(out: Path, number: int) -> Path:
    """Where the files of one job lie."""
    return out / "jobs" / f"{number:06d}"


def identity(slide: Path) -> dict[str, int]:
    """What changes when a file is replaced; its content's hash would take as long as reading it."""
    found = slide.stat()
    return {"bytes": found.st_size, "mtime_ns": found.st_mtime_ns, "inode": found.st_ino}


class ModelProcess:
    """Claims jobs until it is stopped; keeps the model that it used last."""

    def __init__(self, out: Path) -> None:
        settings = read_json(out / SETTINGS, "the settings of vstain serve")
        self.out, self.store = out, JobStore(out)
        self.config = config_from_dict(settings["config"])
        self.root = SlideRoot(Path(settings["root"]))
        self.models: dict[str, str] = settings["models"]
        self.jobs: int = settings["jobs"]
        self._loaded: tuple[str, Predictor] | None = None

    def run(self) -> None:
        parent = os.getppid()
        os.chdir(self.root.folder)
        self.store.take_up()
        while os.getppid() == parent:
            STOPPING.check()
            job = self.store.claim()
            if job is None:
                STOPPING.wait(_IDLE_S)
            else:
                self.score(job)

    def score(self, job: Job) -> None:
        """Ends the job one way or another; a slide's own failure is never this process's."""
        try:
            self._score(job)
        except Cancelled:
            self.store.end(job.id, State.CANCELLED)
        except Stopped:
            self.store.put_back(job.id)
            raise
        except ApiError as error:
            self.store.end(job.id, State.FAILED, error.message, error.hint or "")
        except VirtualStainError as error:
            if isinstance(error, ModelError):
                self._drop()  # a server may have unloaded this version: the next job reads the card again
            self.store.end(job.id, State.FAILED, self._public(error.message), self._public(error.hint or ""))
        except Exception as error:
            traceback.print_exc()
            self.store.end(job.id, State.FAILED, f"a bug: {type(error).__name__}: {self._public(str(error))}")
        else:
            self.store.end(job.id, State.DONE)

    def _score(self, job: Job) -> None:
        progress = JobProgress(self.store, job.id)
        real = self.root.slide(job.slide)
        # below the root, where this process stands: no report and no message holds the server's own folders
        slide = real if self.config.web.show_paths else Path(job.slide)
        progress.note("loading the model", 0, None, None, always=True)
        predictor = self._predictor(job.model)
        progress.note("looking for tissue", 0, None, None, always=True)
        options = ScoreOptions(
            model=self.models[job.model],
            scoring=self.config.scoring,
            tissue=self.config.tissue,
            jobs=self.jobs,
            addition=drawn_where_possible(predictor, self.config.counting),
        )
        folder = make_folder(result_folder(self.out, job.id))
        write_json(folder / IDENTITY, identity(real))
        inputs = [ScoreInput(SlideRef(slide, job.mpp, job.name), folder)]
        score_slides(inputs, options, predictor=predictor, progress=progress)

    def _predictor(self, name: str) -> Predictor:
        if name not in self.models:
            raise InputError(f"the model {name!r} is not served any more.")
        if self._loaded is None or self._loaded[0] != name:
            self._drop()  # the old one's memory first
            self._loaded = (name, open_predictor(self.models[name], self.config.scoring))
        return self._loaded[1]

    def _drop(self) -> None:
        if self._loaded is not None:
            predictor = self._loaded[1]
            self._loaded = None
            predictor.close()

    def _public(self, text: str) -> str:
        """Without the folders of this machine."""
        return text if self.config.web.show_paths else public(text, [self.root.folder, self.out])


def main(out: Path) -> None:
    """Runs until the web process ends or stops it; a second one in the same folder waits for the first."""
    _die_with_parent()
    signal.signal(signal.SIGTERM, STOPPING.begin)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the web process tells us in order
    # an earlier one may still be putting its job back
    with file_lock(out / LOCK, wait=True), contextlib.suppress(Stopped):
        ModelProcess(out).run()


def _die_with_parent() -> None:
    """Asks the kernel for a SIGTERM when the web process is gone, however it went (Linux)."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, signal.SIGTERM)


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
