"""Decoded tiles, shared by the threads that read one slide: each is decoded once and the memory is bounded."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

from virtual_stain.slides.source import Rgb

CACHE_BYTES = 128 * 2**20
"""Enough for a strip of windows as `score` walks it: tiles that two windows share are decoded once."""


class _Slot:
    """A tile that one thread decodes and others may wait for."""

    __slots__ = ("image", "ready")

    def __init__(self) -> None:
        self.ready = threading.Event()
        self.image: Rgb | None = None


class TileCache:
    """Least recently used tiles go first; safe for threads."""

    def __init__(self, max_bytes: int = CACHE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._lock = threading.Lock()
        self._slots: OrderedDict[Hashable, _Slot] = OrderedDict()
        self.decoded = 0
        """Tiles decoded so far."""

    @property
    def bytes_held(self) -> int:
        return self._bytes

    def get(self, key: Hashable, decode: Callable[[], Rgb]) -> Rgb:
        """The tile of `key`, decoded by the first thread that asks. What `decode` raises is raised and not kept."""
        image = self.get_unless_busy(key, decode)
        if image is not None:
            return image
        with self._lock:
            slot = self._slots.get(key)
        if slot is not None:
            slot.ready.wait()
        # the other thread's failure may have been its own (a closed file): this one tries for itself
        return decode() if slot is None or slot.image is None else slot.image

    def get_unless_busy(self, key: Hashable, decode: Callable[[], Rgb]) -> Rgb | None:
        """The same, but None while another thread decodes it: there may be something else to do meanwhile."""
        with self._lock:
            slot = self._slots.get(key)
            mine = slot is None
            if slot is None:
                slot = self._slots[key] = _Slot()
            else:
                self._slots.move_to_end(key)
        return self._fill(key, slot, decode) if mine else slot.image

    def _fill(self, key: Hashable, slot: _Slot, decode: Callable[[], Rgb]) -> Rgb:
        try:
            image = decode()
        except BaseException:
            with self._lock:
                self._slots.pop(key, None)
            slot.ready.set()
            raise
        slot.image = image
        slot.ready.set()
        with self._lock:
            self.decoded += 1
            self._bytes += image.nbytes
            while self._bytes > self._max_bytes and self._slots:
                oldest, old = next(iter(self._slots.items()))
                if old.image is None or oldest == key:
                    break  # still being decoded, or nothing else is left
                del self._slots[oldest]
                self._bytes -= old.image.nbytes
        return image

    def clear(self) -> None:
        with self._lock:
            self._slots.clear()
            self._bytes = 0
