"""Where work runs: the executor is an argument, a local pool of processes by default."""

from __future__ import annotations

import concurrent.futures
import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from virtual_stain.errors import VirtualStainError

T = TypeVar("T")
R = TypeVar("R")


def available_cores() -> int:
    """Processor cores that this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _start_worker() -> None:
    # Ctrl-C goes to the whole process group; the parent alone decides what to do about it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _end_with_parent()
    import cv2

    cv2.setNumThreads(1)  # a worker is one core; the pool is the parallelism


def _end_with_parent() -> None:
    """Workers of a killed parent would wait for ever, or go on writing beside the run that takes up its work."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()


class _Inline(concurrent.futures.Executor):
    """Runs at once in this process: `--jobs 1`, and debuggable."""

    def submit(self, fn, /, *args, **kwargs):  # type: ignore[no-untyped-def]
        future: concurrent.futures.Future[object] = concurrent.futures.Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


@contextlib.contextmanager
def local_executor(jobs: int) -> Iterator[concurrent.futures.Executor]:
    """A pool of `jobs` processes (spawned: no inherited locks or file handles); 1 runs inline."""
    if jobs <= 1:
        yield _Inline()
        return
    context = multiprocessing.get_context("spawn")
    try:
        pool = concurrent.futures.ProcessPoolExecutor(jobs, mp_context=context, initializer=_start_worker)
    except (OSError, NotImplementedError, ImportError) as error:  # their queues need semaphores
        raise VirtualStainError(
            f"{jobs} processes were asked for, and this system gives none the means to work together: {error}",
            hint="Is /dev/shm there, writable and not full? --jobs 1 does without.",
        ) from error
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    else:
        pool.shutdown(wait=True)


def map_in_order(executor: concurrent.futures.Executor, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Results in the order of `items`; a worker that dies is an error at once, never a hang."""
    futures = [executor.submit(function, item) for item in items]
    try:
        for future in futures:
            yield future.result()
    except BrokenProcessPool as error:
        raise VirtualStainError(
            "A worker process died (killed, or out of memory).",
            hint="Run the same command again: finished work is kept. Fewer --jobs need less memory.",
        ) from error
    finally:
        for future in futures:
            future.cancel()
