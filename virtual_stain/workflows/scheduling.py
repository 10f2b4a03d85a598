"""Work over an executor: results as they come, one failure does not stop the rest, and a dead worker is an error."""

from __future__ import annotations

import concurrent.futures
import contextlib
import importlib
import logging
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from virtual_stain.errors import ConfigError, VirtualStainError
from virtual_stain.files import full_disk
from virtual_stain.installation import install_command
from virtual_stain.parallel import local_executor

T = TypeVar("T")
R = TypeVar("R")
_log = logging.getLogger("vstain.workflows")


@dataclass(frozen=True, slots=True)
class Failure:
    """A piece of work that raised."""

    error: VirtualStainError
    unexpected: bool = False
    """True: not one of our errors, so a bug; its traceback is in the log."""


@dataclass(frozen=True, slots=True)
class Workers:
    """An executor, and how many pieces of work to keep submitted."""

    executor: concurrent.futures.Executor
    in_flight: int


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


def _result(future: concurrent.futures.Future[R]) -> R | Failure:
    try:
        return future.result()
    except concurrent.futures.BrokenExecutor as error:
        raise VirtualStainError(
            "A worker process died (killed, or out of memory).",
            hint="Run the same command again: finished work is kept. Fewer --jobs need less memory.",
        ) from error
    except VirtualStainError as error:
        return Failure(error)
    except Exception as error:
        full = full_disk(error)
        if full is not None:
            return Failure(full)
        # a bug must not take the other pairs with it; it is told to the user and its traceback kept
        _log.warning("%s", "".join(traceback.format_exception(error)))
        return Failure(VirtualStainError(f"unexpected {type(error).__name__}: {error}"), unexpected=True)


@contextlib.contextmanager
def open_workers(jobs: int, scheduler: str | None = None) -> Iterator[Workers]:
    """A local pool of `jobs` processes, or a Dask cluster at `scheduler`.

    Raises ConfigError when Dask is not installed or does not answer. The workers of a cluster need this package and
    the same paths to the slides and to the output folder.
    """
    if scheduler is None:
        with local_executor(jobs) as pool:
            yield Workers(pool, 2 * jobs if jobs > 1 else 1)
        return
    client = _connect(scheduler)
    try:
        threads = sum(client.nthreads().values())
        if not threads:
            raise ConfigError(
                f"--scheduler {scheduler}: the cluster has no workers.", hint=f"Start some: dask worker {scheduler}"
            )
        # impure: two runs of one piece of work are two pieces of work, never a cached result
        yield Workers(client.get_executor(pure=False), 2 * threads)
    finally:
        client.close()


def _connect(scheduler: str) -> Any:
    try:
        distributed = importlib.import_module("distributed")
    except ImportError:
        raise ConfigError(
            "--scheduler needs dask.distributed, which is not installed.",
            hint=f"{install_command('cluster')}  (or leave --scheduler out: all local processors are used)",
        ) from None
    try:
        return distributed.Client(scheduler, timeout=20, set_as_default=False)
    except (OSError, ValueError) as error:  # distributed raises OSError for timeouts, ValueError for bad addresses
        raise ConfigError(
            f"--scheduler {scheduler}: no Dask scheduler answers there: {error}",
            hint="Expected an address like tcp://host:8786.",
        ) from error
