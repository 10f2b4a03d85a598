"""Wrong tokens, counted by address: each one past the first few costs twice the wait of the one before."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

_FREE = 5
_LONGEST_S = 300.0
_FORGOTTEN_S = 3600.0
_ADDRESSES = 10_000


class Throttle:
    """Safe from several threads; remembers a bounded number of addresses."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._known: OrderedDict[str, tuple[int, float]] = OrderedDict()
        """address → (failures, time of the last one), the longest silent first."""

    def wait_s(self, address: str) -> float:
        """Seconds until the address may try again; 0: now."""
        with self._lock:
            failures, last = self._known.get(address, (0, 0.0))
            if failures < _FREE:
                return 0.0
            return max(0.0, last + min(2.0 ** min(failures - _FREE, 20), _LONGEST_S) - self._clock())

    def failed(self, address: str) -> None:
        now = self._clock()
        with self._lock:
            failures, last = self._known.pop(address, (0, now))
            self._known[address] = (1 if now - last > _FORGOTTEN_S else failures + 1, now)
            while len(self._known) > _ADDRESSES:
                self._known.popitem(last=False)

    def succeeded(self, address: str) -> None:
        with self._lock:
            self._known.pop(address, None)
