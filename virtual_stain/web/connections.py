"""Connections that nobody has been let in by yet: few enough, and not for long.

A half-open connection costs its sender nothing and the server a descriptor. Beyond the limit the longest waiting one
gives way to the new one, so that those who do ask are answered. Where none waits, the oldest one gives way that asks
for what everybody may have: somebody who sends a login byte by byte, or takes no answer, holds nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import time
from collections.abc import Callable
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from virtual_stain.web.framing import Framing, FramingError

HEADER_S = 10.0
"""From the connection, or the last answer, to a whole header."""
BODY_S = 30.0
"""Between two pieces of a body or of an answer that is taken, and for a body's first kilobytes."""
LEAST_BYTES_PER_S = 500
"""Of a body, beyond `BODY_S`."""
OPEN_PATHS = ("/login", "/static/", "/healthz", "/readyz")
"""What is answered without a token."""
MAX_CONNECTIONS = 400
_LOG_LINES, _LOG_S, _LOG_TEXTS = 10, 60.0, 1000
_INVALID = "Invalid HTTP request received."
_SPARE_DESCRIPTORS = 100
"""Slides, databases and libraries need some, too."""


def max_connections() -> int:
    """As many as the process's descriptors allow, and no more than there is use for."""
    if sys.platform == "win32":
        return MAX_CONNECTIONS
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4096)), hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return max(8, min(MAX_CONNECTIONS, soft - _SPARE_DESCRIPTORS))


class BoundedLog(logging.Filter):
    """Lets through so many lines of one text a minute: whoever sends nonsense must not fill the disk with what is said
    of it."""

    def __init__(self, most: int = _LOG_LINES, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._most, self._clock = most, clock
        self._seen: dict[str, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """The last line of a minute says that more are left out."""
        text, now = str(record.msg), self._clock()
        since, count = self._seen.get(text, (now, 0))
        if now - since >= _LOG_S:
            since, count = now, 0
        if len(self._seen) > _LOG_TEXTS:
            self._seen.clear()
        self._seen[text] = since, count + 1
        if count + 1 == self._most:
            record.msg = f"{text} (more of these are left out for a minute)"
        return count < self._most


class LimitedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 with a bound on connections and on the time that a header and a body may take.

    It reads requests strictly (`Framing`), and is never made another protocol (WebSocket, HTTP/2).
    """

    limit = MAX_CONNECTIONS
    header_s = HEADER_S
    body_s = BODY_S
    _deadline: asyncio.TimerHandle | None = None
    _made = False
    _asked_for: object = None
    _asked = 0.0
    _body_bytes = 0
    _unsent_bytes = 0

    _framing: Framing
    _refused = False

    def connection_made(self, transport: Any) -> None:
        self._framing = Framing()
        if len(self.connections) >= self.limit:
            gives_way = self._gives_way()
            if gives_way is None:  # all are at work
                transport.abort()
                self.transport = transport
                return
            self.connections.discard(gives_way)
            gives_way.transport.abort()
        super().connection_made(transport)
        self._made = True
        self.since = self._taken = self.loop.time()
        self._watch()

    def _gives_way(self) -> LimitedProtocol | None:
        ours = [c for c in self.connections if isinstance(c, LimitedProtocol)]
        waiting = [c for c in ours if c.is_waiting] or [c for c in ours if c.is_open_to_all]
        return min(waiting, key=lambda c: c.since if c.is_waiting else c._asked, default=None)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        if self._made:
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.in_body:
            self.since = self.loop.time()
            self._body_bytes += len(data)
        if self._refused:
            return
        try:
            passed = self._framing.whole_parts(data)
        except FramingError as error:
            passed, self._refused = error.passed, True
        if passed:
            super().data_received(passed)
        self._note_request()
        if self._refused and self.is_waiting:
            self._refuse()

    def _refuse(self) -> None:
        """After the answers to what was sound before it."""
        if not self.transport.is_closing():
            self.logger.warning(_INVALID)
            self.send_400_response(_INVALID)

    def _should_upgrade(self) -> bool:
        return False  # another protocol would have none of these limits, and no route has use for one

    def _note_request(self) -> None:
        if self.cycle is not self._asked_for:
            self._asked_for, self._asked, self._body_bytes = self.cycle, self.loop.time(), 0

    def on_response_complete(self) -> None:
        self.since = self.loop.time()
        super().on_response_complete()
        self._note_request()
        if self._refused and self.is_waiting:
            self._refuse()

    @property
    def is_waiting(self) -> bool:
        """Nobody has been asked anything: the header is not there yet."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def in_body(self) -> bool:
        return not self.is_waiting and self.conn.their_state is h11.SEND_BODY

    @property
    def is_open_to_all(self) -> bool:
        """Whether the request under way is one that needs no token."""
        path = str(self.scope["path"]).removeprefix(self.root_path)
        return path.startswith(OPEN_PATHS)

    def _watch(self) -> None:
        now, unsent = self.loop.time(), self.transport.get_write_buffer_size()
        if not unsent or unsent != self._unsent_bytes:
            self._taken, self._unsent_bytes = now, unsent
        if self._is_late(now):
            self.transport.abort()
            return
        self._deadline = self.loop.call_later(min(self.header_s, self.body_s) / 4, self._watch)

    def _is_late(self, now: float) -> bool:
        if now - self._taken > self.body_s:
            return True
        if self.is_waiting:
            return now - self.since > self.header_s
        trickles = now - self._asked > self.body_s + self._body_bytes / LEAST_BYTES_PER_S
        return self.in_body and (trickles or now - self.since > self.body_s)
