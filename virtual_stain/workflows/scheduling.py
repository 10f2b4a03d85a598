"""Work over an executor: results as they come, one failure does not stop the rest, and a dead worker is told."""

from __future__ import annotations

import concurrent.futures
import contextlib
import importlib
import logging
import pkgutil
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from virtual_stain.errors import ConfigError, VirtualStainError
from virtual_stain.files import full_disk, is_full
from virtual_stain.installation import install_command, what_is_missing
from virtual_stain.parallel import local_executor
from virtual_stain.reuse import code_sha256
from virtual_stain.version import __version__
from virtual_stain.workflows.slurm import is_slurm, open_slurm, slurm_processes

T = TypeVar("T")
R = TypeVar("R")
_log = logging.getLogger("vstain.workflows")
_DIED = "A worker process died (killed, or out of memory)."
_GPU = "GPU"


@dataclass(frozen=True, slots=True)
class Failure:
    """A piece of work that raised."""

    error: VirtualStainError
    unexpected: bool = False
    """True: no error that we know, so a bug, whose traceback is in the log; or a worker that died."""
    everywhere: bool = False
    """True: no fault of this piece of work, and the next ones would meet it, too: a full disk, a missing package."""


@dataclass(frozen=True, slots=True)
class Workers:
    """An executor, and how many pieces of work to keep submitted."""

    executor: concurrent.futures.Executor
    in_flight: int
    renew: Callable[[], concurrent.futures.Executor] | None = None
    """Makes another executor after a worker has died; None: the executor replaces its workers itself."""


def completed(workers: Workers, function: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[T, R | Failure]]:
    """(item, result or Failure) in the order of completion; `items` is taken from as work gets done.

    Raises VirtualStainError at once when a worker process dies; what is still queued is cancelled.
    """
    waiting = iter(items)
    running: dict[concurrent.futures.Future[R], T] = {}
    try:
        while True:
            for item in waiting:
                running[workers.executor.submit(function, item)] = item
                if len(running) >= workers.in_flight:
                    break
            if not running:
                return
            done, _ = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
            for future in done:
                outcome: R | Failure = _result(future)
                yield running.pop(future), outcome
    finally:
        for future in running:
            future.cancel()


def surviving(workers: Workers, function: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[T, R | Failure]]:
    """As `completed`, but a worker that dies costs no more than its piece of work.

    A local pool dies as a whole, and nobody knows over which of its pieces: each of them is done again, alone. The one
    that kills its worker again is a Failure, the others go on.
    """
    waiting = iter(items)
    suspects: deque[T] = deque()
    running: dict[concurrent.futures.Future[R], T] = {}
    executor, alone = workers.executor, False

    def submit(item: T) -> None:
        nonlocal executor
        try:
            future = executor.submit(function, item)
        except concurrent.futures.BrokenExecutor:  # died between two pieces of work: this one has not been begun
            if workers.renew is None:
                raise
            executor = workers.renew()
            future = executor.submit(function, item)
        running[future] = item

    try:
        while True:
            if suspects and not running:
                alone = True
                submit(suspects.popleft())
            elif not suspects and not alone and len(running) < workers.in_flight:
                for item in waiting:
                    submit(item)
                    if len(running) >= workers.in_flight:
                        break
            if not running:
                if not suspects:
                    return
                continue
            done, _ = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
            if any(_has_died(future) for future in done) and workers.renew is not None:
                concurrent.futures.wait(running)  # the pool is gone: all of its pieces end at once
                whole = [f for f in running if not _has_died(f)]
                for future in whole:
                    finished: R | Failure = _result(future)
                    yield running.pop(future), finished
                killed = list(running.values())
                running.clear()
                executor = workers.renew()
                if alone:
                    yield killed[0], Failure(_killed_twice(), unexpected=True)
                else:
                    suspects.extend(killed)
            else:
                for future in done:
                    outcome: R | Failure = _result(future)
                    yield running.pop(future), outcome
            alone = False
    finally:
        for future in running:
            future.cancel()


def _has_died(future: concurrent.futures.Future[R]) -> bool:
    return not future.cancelled() and isinstance(future.exception(), concurrent.futures.BrokenExecutor)


def _killed_twice() -> VirtualStainError:
    return VirtualStainError(
        "expected a slide that a worker can read. Received one over which its worker process died twice "
        "(killed, or out of memory).",
        hint="Look at the slide (vstain info), or give a worker more memory: fewer --jobs need less.",
    )


def _result(future: concurrent.futures.Future[R]) -> R | Failure:
    try:
        return future.result()
    except concurrent.futures.BrokenExecutor as error:
        raise VirtualStainError(
            _DIED, hint="Run the same command again: finished work is kept. Fewer --jobs need less memory."
        ) from error
    except concurrent.futures.CancelledError as error:  # of Dask: its scheduler was restarted, or is gone
        raise VirtualStainError(
            "The Dask scheduler has lost the work that it was given: was it restarted?",
            hint="Run the same command again: finished work is kept.",
        ) from error
    except VirtualStainError as error:
        return Failure(error, everywhere=is_full(error))
    except Exception as error:
        full = full_disk(error)
        if full is not None:
            return Failure(full, everywhere=True)
        if type(error).__name__ == "KilledWorker":  # of Dask, which is not imported here
            return Failure(_killed_twice(), unexpected=True)
        if (missing := what_is_missing(error)) is not None:
            return Failure(ConfigError(f"a worker lacks what this work needs: {missing}"), everywhere=True)
        # a bug must not take the other pairs with it; it is told to the user and its traceback kept
        _log.warning("%s", "".join(traceback.format_exception(error)))
        told = VirtualStainError(f"unexpected {type(error).__name__}: {error}")
        told.__cause__ = error
        return Failure(told, unexpected=True)


@contextlib.contextmanager
def open_workers(
    jobs: int, scheduler: str | None = None, *, stage: str | None = None, gpu: bool = False
) -> Iterator[Workers]:
    """A local pool of `jobs` processes, or a Dask cluster: at an address, or started on Slurm (`slurm:partition=…`).

    `stage`: the module (`__name__`) whose code each worker must have as it is here. `gpu`: workers that state the
    resource GPU get the work, where there are any. Raises ConfigError when Dask is not installed or does not answer,
    or when a worker has no or another version of this package. The workers of a cluster need the same paths to the
    slides and to the output folder.
    """
    if scheduler is None:
        with contextlib.ExitStack() as stack:

            def fresh() -> concurrent.futures.Executor:
                return stack.enter_context(local_executor(jobs))

            yield Workers(fresh(), 2 * jobs if jobs > 1 else 1, fresh)
        return
    with contextlib.ExitStack() as stack:
        distributed = _import_distributed()
        address = stack.enter_context(open_slurm(scheduler)) if is_slurm(scheduler) else scheduler
        client = _connect(distributed, address)
        stack.callback(client.close)
        if is_slurm(scheduler):
            client.wait_for_workers(1)  # a queue may take hours, and Ctrl-C ends it
        threads = max(sum(client.nthreads().values()), slurm_processes(scheduler))
        if not threads:
            raise ConfigError(
                f"--scheduler {scheduler}: the cluster has no workers.", hint=f"Start some: dask worker {scheduler}"
            )
        _require_equal_workers(client, scheduler, stage)
        wanted = {"resources": {_GPU: 1}} if gpu and _some_state_gpu(client) else {}
        # impure: two runs of one piece of work are two pieces of work, never a cached result
        yield Workers(client.get_executor(pure=False, **wanted), 2 * threads)


def _require_equal_workers(client: Any, scheduler: str, stage: str | None) -> None:
    """Other code computes other numbers, and would stand in one table with those of here."""
    # a function of the standard library: a worker without this package can answer
    found: Mapping[str, Any] = client.run(pkgutil.resolve_name, "virtual_stain.version:__version__", on_error="return")
    bad = {worker: answer for worker, answer in found.items() if answer != __version__}
    if not bad and stage is not None:
        here = code_sha256(stage)
        found = client.run(code_sha256, stage, on_error="return")
        bad = {worker: "other code of this version" for worker, answer in found.items() if answer != here}
    if bad:
        lines = "\n".join(f"  - {worker}: {answer}" for worker, answer in sorted(bad.items())[:20])
        raise ConfigError(
            f"--scheduler {scheduler}: expected workers with virtual_stain {__version__}, as here. Received:\n{lines}",
            hint="Install the same version where the workers run: in the environment that starts `dask worker`.",
        )


def _some_state_gpu(client: Any) -> bool:
    workers = client.scheduler_info(n_workers=-1)["workers"]
    return any(worker.get("resources", {}).get(_GPU) for worker in workers.values())


def _import_distributed() -> Any:
    try:
        return importlib.import_module("distributed")
    except ImportError:
        raise ConfigError(
            "--scheduler needs dask.distributed, which is not installed.",
            hint=f"{install_command('cluster')}  (or leave --scheduler out: all local processors are used)",
        ) from None


def _connect(distributed: Any, scheduler: str) -> Any:
    try:
        return distributed.Client(scheduler, timeout=20, set_as_default=False)
    except (OSError, ValueError) as error:  # distributed raises OSError for timeouts, ValueError for bad addresses
        raise ConfigError(
            f"--scheduler {scheduler}: no Dask scheduler answers there: {error}",
            hint="Expected an address like tcp://host:8786, or slurm:partition=…,cores=…",
        ) from error
