"""Progress with rate and remaining time: a bar on a terminal, plain lines otherwise, nothing when quiet."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

from tqdm import tqdm

T = TypeVar("T")

_LINE_EVERY_S = 10.0


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


class Console:
    """Writes to stderr, so that stdout stays clean for pipes."""

    def track(self, items: Iterable[T], total: int, label: str, unit: str = "it") -> Iterator[T]:
        if sys.stderr.isatty():
            yield from tqdm(items, total=total, desc=label, unit=unit, file=sys.stderr, leave=False)
            return
        start = last = time.monotonic()
        for done, item in enumerate(items, 1):
            yield item
            now = time.monotonic()
            if now - last >= _LINE_EVERY_S or (done == total and now - start >= 2.0):
                rate = done / (now - start)
                left = "" if done >= total else f", {(total - done) / rate:.0f} s left"
                self.say(f"{label}: {done}/{total} {unit}, {rate:.2g} {unit}/s{left}")
                last = now

    def say(self, text: str) -> None:
        tqdm.write(text, file=sys.stderr)


QUIET = Quiet()
