"""The network's side of the overlap: a bounded number of batches at work or waiting for it, answers in order."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType

import numpy as np
import numpy.typing as npt

from virtual_stain.appearance import Appearance
from virtual_stain.scoring.predictor import Predictor, Tiles

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False, slots=True)
class SeenTile:
    """A tile as it was read."""

    tile: Tiles
    """uint8[T, T, 3]."""
    look: Appearance | None


@dataclass(eq=False, slots=True)
class Batch:
    """Tiles on their way through the network."""

    indices: list[int]
    tiles: list[Tiles]
    looks: dict[int, Appearance]
    answers: dict[str, Floats] = field(default_factory=dict)


class InFlight:
    """Calls the network from `in_flight` threads; one batch more waits, so that none of them ever idles.

    Leaving the `with` block on an error drops what waits and ends calls that wait for a server.
    """

    def __init__(self, predict: Callable[[Sequence[Tiles]], dict[str, Floats]], predictor: Predictor) -> None:
        self._predict, self._predictor = predict, predictor
        self._workers = predictor.in_flight
        self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="network")
        self.busy_s = 0.0
        """Time in which the network had something to do, however many calls at once."""
        self._lock = threading.Lock()
        self._running, self._busy_since = 0, 0.0

    def __enter__(self) -> InFlight:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        try:
            if kind is not None:
                self._predictor.cancel()
        finally:
            self._pool.shutdown(wait=kind is None, cancel_futures=True)

    def answers(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Every batch with its answers, in order. Raises what `predict` or `batches` raise."""
        waiting: deque[tuple[Batch, Future[dict[str, Floats]]]] = deque()
        for batch in batches:
            waiting.append((batch, self._pool.submit(self._timed, batch.tiles)))
            while len(waiting) > self._workers + 1 or (waiting and waiting[0][1].done()):
                yield self._finished(*waiting.popleft())
        while waiting:
            yield self._finished(*waiting.popleft())

    def _timed(self, tiles: Sequence[Tiles]) -> dict[str, Floats]:
        with self._lock:
            if not self._running:
                self._busy_since = time.monotonic()
            self._running += 1
        try:
            return self._predict(tiles)
        finally:
            with self._lock:
                self._running -= 1
                if not self._running:
                    self.busy_s += time.monotonic() - self._busy_since

    def _finished(self, batch: Batch, future: Future[dict[str, Floats]]) -> Batch:
        batch.answers = future.result()
        batch.tiles = []  # the pixels have done their work
        return batch
