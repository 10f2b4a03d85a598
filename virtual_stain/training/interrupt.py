"""Ctrl-C and SIGTERM end a step, not the middle of one: the loop looks, saves and stops."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any


@dataclass(slots=True)
class StopRequest:
    """Whether somebody asked for the end."""

    asked: bool = False


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Inside the block the first Ctrl-C or SIGTERM (a batch system's) sets `.asked`; the second acts as usual."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request  # only the main thread may handle signals; its owner stops us
        return

    def ask(number: int, frame: FrameType | None) -> None:
        request.asked = True
        signal.signal(number, before[number])

    before: dict[int, Any] = {int(n): signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        for number in before:
            signal.signal(number, ask)
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
