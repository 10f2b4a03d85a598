"""A foreign file is first opened and read in a child process: what ends a process must not end a batch or a server.

Libraries that decode slides are written in C: a header of impossible sizes makes some of them abort. One child serves
its parent for as long as it lives; it dies in the parent's place, and the next file gets a new one.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
from pathlib import Path

from virtual_stain.errors import SlideError
from virtual_stain.slides.slide import SlideRef
from virtual_stain.slides.tiff_description import is_tiff

_PATIENCE_S = 300.0
"""A stalled share takes long; a library that never returns takes for ever."""
_SIDE_PX = 64


class _Child:
    """The process that opens files for this one, with the files that it has survived."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._survived: set[tuple[str, int, int]] = set()

    def survives(self, path: Path) -> str | None:
        """None, or how the child ended over this file."""
        key = _key(path)
        if key is None:  # the opening itself says what is wrong
            return None
        with self._lock:
            if key in self._survived:
                return None
            ended = self._ask(path)
            if ended is None:
                self._survived.add(key)
            return ended

    def _ask(self, path: Path) -> str | None:
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(os.fspath(path.absolute())).encode("ascii") + b"\n")
            process.stdin.flush()
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            if not selector.select(_PATIENCE_S):
                self._close(kill=True)
                return f"it did not return within {_PATIENCE_S:.0f} s"
        if process.stdout.readline():
            return None
        code = process.wait()
        self._close()
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is not None:  # e.g. for want of memory, between two files
            self._close()
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            atexit.register(self.close)
        return self._process

    def close(self) -> None:
        """Ends the child, where there is one."""
        with self._lock:
            self._close(kill=True)

    def _close(self, *, kill: bool = False) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if kill:
            process.kill()
        with contextlib.suppress(OSError), process:  # closes the pipes and waits
            pass
        atexit.unregister(self.close)


_CHILD = _Child()


def require_survivable(*refs: SlideRef) -> None:
    """Raises SlideError for a file over which a library ends its process. What else is wrong, `open_slide` says."""
    for ref in refs:
        ended = _CHILD.survives(ref.path)
        if ended is not None:
            raise SlideError(
                f"{ref.path}: expected a file that can be opened. Received one that ends the process that reads it "
                f"({ended}).",
                hint="The file is damaged, or was made to do harm: copy or scan it again.",
            )


def unchanged_since(ref: SlideRef, record: Path) -> bool:
    """Whether a slide of one file lies untouched since `record` was written.

    The inode's time counts, which no copy and no tool sets back. Only a TIFF is surely one file; others say no.
    """
    try:
        return is_tiff(ref.path) and ref.path.stat().st_ctime_ns < record.stat().st_mtime_ns
    except (OSError, ValueError):
        return False


def _key(path: Path) -> tuple[str, int, int] | None:
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return os.fspath(path.absolute()), found.st_size, found.st_mtime_ns


def _read_some(path: Path) -> None:
    """Opens the file and decodes a little of every level."""
    from virtual_stain.geometry import Size
    from virtual_stain.slides.slide import open_slide

    with open_slide(SlideRef(path, virtual=True)) as slide:
        centre = slide.bounds.centre
        for level in range(slide.level_count):
            slide.read_level(level, centre[0], centre[1], Size(_SIDE_PX, _SIDE_PX))


def _serve() -> None:
    """One path a line, one answer a line, until the parent closes the pipe: by its end at the latest."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what a library prints is no answer
    for line in sys.stdin.buffer:
        with contextlib.suppress(Exception):  # a refusal is an answer, too
            _read_some(Path(json.loads(line)))
        answers.write(b"\n")
        answers.flush()


if __name__ == "__main__":
    _serve()
