"""Progress with rate and remaining time: a bar on a terminal, plain lines otherwise, nothing when quiet."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

from tqdm import tqdm

T = TypeVar("T")

_LINE_EVERY_S = 10.0
_LEAST_ITEMS, _LEAST_S = 20, 30.0
_SMALL_S, _SHARE = 0.005, 20.0


class Progress(Protocol):
    """What a stage needs: something to say it is getting on."""

    def track(self, items: Iterable[T], total: int, label: str, unit: str = "it") -> Iterator[T]: ...

    def say(self, text: str) -> None: ...


class Quiet:
    """No output: the default inside the library, and `-q`."""

    def track(self, items: Iterable[T], total: int, label: str, unit: str = "it") -> Iterator[T]:
        yield from items

    def say(self, text: str) -> None:
        pass


def _means_something(done: int, total: int, seconds: float) -> bool:
    """Whether so little says how long the rest takes: a tenth of it, or a fair number of items after the first ones."""
    return done * 10 >= total or (done >= _LEAST_ITEMS and seconds >= _LEAST_S)


def _left(items: int, rate: float) -> str:
    seconds = items / rate
    return f", {seconds:.0f} s left" if seconds < 120 else f", about {seconds / 60:.0f} min left"


class Console:
    """Writes to stderr, so that stdout stays clean for pipes."""

    def track(self, items: Iterable[T], total: int, label: str, unit: str = "it") -> Iterator[T]:
        if sys.stderr.isatty():
            yield from tqdm(items, total=total, desc=label, unit=unit, file=sys.stderr, leave=False)
            return
        start = last = first = time.monotonic()
        for done, item in enumerate(items, 1):
            yield item
            now = time.monotonic()
            first = now if done == 1 else first
            if now - last >= _LINE_EVERY_S or (done == total and now - start >= 2.0):
                rate = done / (now - start)
                # the first item waits for workers, libraries and compilation: the rest goes by the others' rate
                steady = rate if done == 1 or now == first else (done - 1) / (now - first)
                known = done < total and _means_something(done, total, now - start)
                left = _left(total - done, steady) if known else ""
                self.say(f"{label}: {done}/{total} {unit}, {rate:.2g} {unit}/s{left}")
                last = now

    def say(self, text: str) -> None:
        tqdm.write(text, file=sys.stderr)


class Sparing:
    """Says when a table that grows with every slide is due: each time while it is small, then so that it costs 5 %."""

    def __init__(self) -> None:
        self._is_small = True
        self._next = 0.0

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Around the writing, whose time it takes."""
        start, own = time.monotonic(), time.process_time()
        yield
        end = time.monotonic()
        self._is_small = time.process_time() - own < _SMALL_S
        self._next = end + _SHARE * (end - start)

    @property
    def is_due(self) -> bool:
        """Whether to write now."""
        return self._is_small or time.monotonic() >= self._next


QUIET = Quiet()
