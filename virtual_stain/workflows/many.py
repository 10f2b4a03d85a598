"""Many slides through one function: an outcome for each, none lost, none done twice, and one failure stops no other.

Every verb that takes many slides or pairs goes through `run_many`. The verb's own stage decides by content whether an
output is still valid. The journal beside the results saves asking it: a slide is not even opened where the request, the
slide's and the results' sizes and times are those that were noted when it was done.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import IO, Any, Generic, TypeVar

from virtual_stain.errors import BatchError, InputError, OutputError, VirtualStainError
from virtual_stain.files import make_folder, output_errors, replacing
from virtual_stain.progress import QUIET, Progress
from virtual_stain.provenance import Outcome
from virtual_stain.workflows.scheduling import Failure, Workers, surviving

W = TypeVar("W")
_Stamp = list[int]
_Stamps = dict[str, _Stamp]
_JOURNAL, _MARKS = ".done.jsonl", ".started"
_MOST_STARTS = 2
_MANY_FILES = frozenset({".mrxs", ".vms", ".vmu", ".dcm"})  # the named file says little of the others
_LISTED = 20


class Status(StrEnum):
    """What became of a slide."""

    DONE = "done"
    KEPT = "kept"
    """Finished by an earlier run."""
    FAILED = "failed"
    PENDING = "pending"
    """Not begun: the run was stopped."""


@dataclass(frozen=True, slots=True)
class Task(Generic[W]):
    """One slide or pair; travels to a worker."""

    name: str
    """Of its results: no other task of the run may have it."""
    work: W
    inputs: tuple[Path, ...]
    """Files that it reads."""
    request: str | None = None
    """Digest of all that decides its results beside the inputs; None: never kept without asking the stage."""
    seen: list[list[int]] | None = None
    """`stamps_of` its inputs, where an earlier piece of the same work has read them; None: as they are now."""


@dataclass(frozen=True, slots=True)
class Finished:
    """What a worker returns of a task that is done."""

    row: dict[str, Any]
    """JSON values, for the table over all."""
    files: tuple[Path, ...] = ()
    """Those that must lie there unchanged for the task to be kept."""
    ok: bool = True
    """False: it is done, and cannot be used: --fail-fast stops at it."""
    is_noted: bool = True
    """False: the next run asks the stage again, which has something to say of it."""
    value: Any = None
    """Goes back to the caller and is not noted: None of a task that is kept."""


@dataclass(frozen=True, slots=True)
class Done:
    """What became of a task."""

    name: str
    status: Status
    row: dict[str, Any] = field(default_factory=dict)
    reason: str = ""
    error: VirtualStainError | None = None
    is_fault: bool = False
    """Of ours, or of the machine: a bug, whose exception is the error's cause, or a worker that died."""
    value: Any = None
    """See Finished."""

    @property
    def ok(self) -> bool:
        """Whether its results are there."""
        return self.status in (Status.DONE, Status.KEPT)

    @property
    def outcome(self) -> Outcome:
        """For run.json."""
        return Outcome(self.name, self.ok, self.reason or ("" if self.ok else self.status.value))


def run_many(
    tasks: Sequence[Task[W]],
    function: Callable[[W], Finished],
    workers: Workers,
    out: Path,
    *,
    force: bool = False,
    fail_fast: bool = False,
    progress: Progress = QUIET,
    label: str = "slides",
    unit: str = "slide",
    journal_name: str = _JOURNAL,
    is_wanted: Callable[[Task[W]], bool] = lambda _: True,
) -> Iterator[Done]:
    """One Done for every task, those that are kept first, the others as they end.

    `function` runs in a worker. `journal_name`: a share of a folder in which others run has one of its own.
    `is_wanted` is asked when a task's turn has come; the others stay pending.
    `fail_fast`: after the first failure nothing more is begun; the rest is pending.
    Raises what no slide is to blame for: OutputError of a full disk, ConfigError of a worker that lacks a package.
    """
    with _Journal(out / journal_name) as journal, _marks(out, workers) as marks:
        if any(task.request is not None for task in tasks):
            journal.open()
        todo: list[Task[W]] = []
        seen = {}  # before the work: a slide that changes meanwhile is asked about the next time
        for task in tasks:
            seen[task.name] = stamps_of(task.inputs) if task.seen is None else task.seen
            row = None if force else journal.row_of(task, seen[task.name])
            if row is None:
                todo.append(task)
            else:
                yield Done(task.name, Status.KEPT, row, "kept")
        ended = surviving(workers, _Guarded(function, marks), (task for task in todo if is_wanted(task)))
        left = {task.name: None for task in todo}  # in order
        for task, result in progress.track(ended, len(todo), label, unit):
            del left[task.name]
            if isinstance(result, Failure):
                if result.everywhere:
                    raise result.error
                is_fault = result.unexpected or isinstance(result.error, _LostWorkerError)
                yield Done(task.name, Status.FAILED, {}, result.error.message, result.error, is_fault)
                if fail_fast:
                    break
            else:
                journal.note(task, result, seen[task.name])
                yield Done(task.name, Status.DONE, result.row, value=result.value)
                if fail_fast and not result.ok:
                    break
        for name in left:
            yield Done(name, Status.PENDING, {}, "not begun: the run was stopped (--fail-fast)")


def earlier_rows(out: Path, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Rows of tasks that earlier runs left in the folder, other than `names`: the table tells of all that is there."""
    lines = _Journal(out / _JOURNAL).lines
    for name in names:
        lines.pop(name, None)
    found = {}
    for name, line in lines.items():
        files, row = line.get("files"), line.get("row")
        if isinstance(files, dict) and isinstance(row, dict) and _stamps([out / f for f in files], out) == files:
            found[name] = row
    return found


@contextlib.contextmanager
def telling(tell: Callable[[], None]) -> Iterator[None]:
    """Around the work of a run: `tell` writes what became of it, at the end and also where it is stopped.

    Ctrl-C, SIGTERM, a full disk: the first error is the one to raise. At the end, what cannot be written is an error.
    """
    try:
        yield
    except BaseException:
        with contextlib.suppress(OutputError):
            tell()
        raise
    tell()


def batch_error(
    done: Sequence[Done], what: str, index: Path | None, *, noun: str = "slides"
) -> VirtualStainError | None:
    """The error that a run ends with; None where every task is done. The only task's own error stays itself.

    `index`: the page that shows them; None: there is none.
    """
    bad = [d for d in done if not d.ok]
    if not bad:
        return None
    if len(done) == 1 and bad[0].error is not None:
        return bad[0].error
    counts = Counter(d.status for d in bad)
    lines = [f"  - {d.name}: {d.reason}" for d in bad[:_LISTED]]
    if len(bad) > _LISTED:
        lines.append(f"  … and {len(bad) - _LISTED} more: see run.json")
    pending = f", {counts[Status.PENDING]} were not begun" if counts[Status.PENDING] else ""
    return BatchError(
        f"{counts[Status.FAILED]} of {len(done)} {noun} could not be {what}{pending}:\n" + "\n".join(lines),
        hint=("" if index is None else f"{index} shows them, worst first. ")
        + "The same command goes on from there and tries them again.",
    )


class _LostWorkerError(InputError):
    """A slide over which workers died."""


@dataclass(frozen=True, slots=True)
class _Guarded(Generic[W]):
    """Runs in a worker; `marks`: a folder that counts beginnings, so that nobody begins a third time what kills.

    A cluster replaces a dead worker and begins its task again, more often than one slide is worth.
    """

    function: Callable[[W], Finished]
    marks: Path | None

    def __call__(self, task: Task[W]) -> Finished:
        if self.marks is None:
            return self.function(task.work)
        mark = self.marks / task.name
        begun = mark.stat().st_size if mark.is_file() else 0
        if begun >= _MOST_STARTS:
            raise _LostWorkerError(
                f"expected a slide that a worker can read. Received one over which its worker was lost {begun} times "
                "(killed, or out of memory).",
                hint="Look at the slide (vstain info), or give a worker more memory.",
            )
        with mark.open("ab") as stream:
            stream.write(b".")
        try:
            return self.function(task.work)
        finally:  # whatever Python sees is no death
            mark.unlink(missing_ok=True)


@contextlib.contextmanager
def _marks(out: Path, workers: Workers) -> Iterator[Path | None]:
    if workers.renew is not None:  # a local pool tells of its dead
        yield None
        return
    folder = out / _MARKS
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed as a whole
    make_folder(folder)
    try:
        yield folder.absolute()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Journal:
    """What is done, a line each, written as it is done; a torn or missing line costs a question to the stage."""

    def __init__(self, path: Path) -> None:
        self._path, self._folder = path, path.parent
        self.lines = self._read()
        self._stream: IO[str] | None = None

    def open(self) -> None:
        """For `note`. What earlier runs left is written anew: each task once."""
        with replacing(self._path) as temporary, temporary.open("w", encoding="utf-8") as stream:
            stream.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in self.lines.values())
        with output_errors(self._path):
            self._stream = self._path.open("a", encoding="utf-8")

    def __enter__(self) -> _Journal:
        return self

    def __exit__(self, *_: object) -> None:
        if self._stream is not None:
            self._stream.close()

    def row_of(self, task: Task[Any], stamps: list[_Stamp] | None) -> dict[str, Any] | None:
        """The row of a task that is done, where nothing has changed since. `stamps`: of its inputs, as they are."""
        line = self.lines.get(task.name)
        if line is None or task.request is None or line.get("request") != task.request:
            return None
        files = line.get("files")
        if stamps is None or line.get("inputs") != stamps or not isinstance(files, dict):
            return None
        if _stamps([self._folder / name for name in files], self._folder) != files:
            return None
        row = line.get("row")
        return row if isinstance(row, dict) else None

    def note(self, task: Task[Any], result: Finished, inputs: list[_Stamp] | None) -> None:
        """Notes that a task is done. `inputs`: the stamps of its inputs before it was begun."""
        if task.request is None or self._stream is None or not (result.ok and result.is_noted):
            return
        files = _stamps(result.files, self._folder)
        if inputs is None or files is None or any(p.suffix.lower() in _MANY_FILES for p in task.inputs):
            return
        line = {"name": task.name, "request": task.request, "inputs": inputs, "files": files, "row": result.row}
        with output_errors(self._path):
            self._stream.write(json.dumps(line | {"check": _check(line)}, ensure_ascii=False) + "\n")
            self._stream.flush()

    def _read(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        with contextlib.suppress(OSError), self._path.open(encoding="utf-8", errors="replace") as stream:
            for text in stream:
                with contextlib.suppress(ValueError, RecursionError):
                    line = json.loads(text)
                    sound = isinstance(line, dict) and line.get("check") == _check(line)
                    if sound and isinstance(line.get("name"), str):
                        found[line["name"]] = line
        return found


def _check(line: dict[str, Any]) -> str:
    """A hash of what a line says: a row goes into tables as it stands, and a bit that has rotted is another number."""
    said = {key: value for key, value in line.items() if key != "check"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


def stamps_of(paths: Iterable[Path]) -> list[_Stamp] | None:
    """Size, times and number of each file, without its name, which may be a patient's; None where one is not there.

    The time of the last change of an inode cannot be set back, as that of a file's content can.
    """
    try:
        return [_stamp(path) for path in paths]
    except OSError:
        return None


def _stamp(path: Path) -> _Stamp:
    state = path.stat()
    return [state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino]


def _stamps(paths: Iterable[Path], folder: Path) -> _Stamps | None:
    """Path (below `folder`: relative to it) → its stamp; None where a file is not there."""
    try:
        return {
            str(path.relative_to(folder) if path.is_relative_to(folder) else path.absolute()): _stamp(path)
            for path in paths
        }
    except OSError:
        return None
