"""Tiles read ahead by threads, handed over in order, with a bound on what waits and on how long."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Generic, TypeVar

from virtual_stain.errors import SlideError, VirtualStainError

T = TypeVar("T")
R = TypeVar("R")


class ReadAhead(Generic[T, R]):
    """Reads all items in `jobs` threads; iterating gives (item, result or SlideError) in their order.

    `open_reader` is entered once in every thread and gives that thread's own `read(item)`: a slide's handle is
    never shared, since the first damaged region closes it. At most `ahead` results wait in memory: readers pause
    until the consumer has taken one. A SlideError is one tile's failure and is handed over in its place; any other
    exception ends the iteration with it. A reader that dies, or `timeout_s` without the next tile, is an error and
    never a hang. Leaving the `with` block stops the readers; they are daemons, so one that is stuck in a dead
    network share does not keep the process alive.
    """

    def __init__(
        self,
        open_reader: Callable[[], AbstractContextManager[Callable[[T], R]]],
        items: Sequence[T],
        *,
        jobs: int,
        ahead: int,
        timeout_s: float,
    ) -> None:
        self._open_reader, self._items, self._timeout_s = open_reader, items, timeout_s
        self._ahead = max(ahead, jobs, 1)
        self._changed = threading.Condition()
        self._results: dict[int, R | BaseException] = {}
        self._next_to_read = self._next_to_give = 0
        self._stopped = False
        self.wait_s = 0.0
        """Time the consumer waited for readers."""
        self._threads = [
            threading.Thread(target=self._work, name=f"reader-{i}", daemon=True)
            for i in range(min(max(jobs, 1), len(items)))
        ]

    def __enter__(self) -> ReadAhead[T, R]:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        # A slide must not be closed under a reader; one that hangs is given up after a while.
        deadline = time.monotonic() + min(self._timeout_s, 30.0)
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def __iter__(self) -> Iterator[tuple[T, R | SlideError]]:
        for index, item in enumerate(self._items):
            result = self._take(index)
            if isinstance(result, SlideError):
                yield item, result
            elif isinstance(result, BaseException):
                raise result
            else:
                yield item, result

    def _take(self, index: int) -> R | BaseException:
        start = time.monotonic()
        with self._changed:
            while index not in self._results:
                left = start + self._timeout_s - time.monotonic()
                if left <= 0:
                    raise SlideError(
                        f"A tile could not be read within {self._timeout_s:g} s.",
                        hint="Is the drive or network share still there? --set scoring.read_timeout_s=… waits longer.",
                    )
                # woken now and then to see whether anybody is still reading
                self._changed.wait(min(left, 1.0))
                if index not in self._results and not any(t.is_alive() for t in self._threads):
                    raise VirtualStainError(
                        "All threads that read tiles have died.", hint="Run the same command again."
                    )
            self.wait_s += time.monotonic() - start
            self._next_to_give = index + 1
            self._changed.notify_all()
            return self._results.pop(index)

    def _work(self) -> None:
        with contextlib.ExitStack() as opened:
            read: Callable[[T], R] | None = None
            while (index := self._claim()) is not None:
                result: R | BaseException
                try:
                    if read is None:
                        read = opened.enter_context(self._open_reader())
                    result = read(self._items[index])
                except BaseException as error:  # handed over, not swallowed: the consumer raises it
                    result = error
                with self._changed:
                    self._results[index] = result
                    self._changed.notify_all()

    def _claim(self) -> int | None:
        """The next index to read, once there is room for it; None: nothing is left to do."""
        with self._changed:
            while not self._stopped and self._next_to_read - self._next_to_give >= self._ahead:
                self._changed.wait()
            if self._stopped or self._next_to_read >= len(self._items):
                return None
            self._next_to_read += 1
            return self._next_to_read - 1
