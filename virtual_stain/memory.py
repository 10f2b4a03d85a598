"""Memory that is no longer needed, given back before the next large step; and how much was needed at most.

Graphs of networks are rings of Python objects around blocks of constants: they stay until the collector comes, and the
C library keeps what they free for itself, gigabytes of it, since each block is below its limit for handing pages back.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

_PROC = Path("/proc")
_SAMPLE_S = 0.5


def release_memory() -> None:
    """Collects garbage and, where the C library is glibc, hands its free pages back to the system."""
    gc.collect()
    if sys.platform == "linux":
        try:
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        except (OSError, AttributeError):
            return  # another C library: it has its own ways


class PeakMemory:
    """The largest resident memory that this process and its living descendants had together while the block ran.

    Sampled twice a second, which misses shorter peaks of workers; the kernel's own record of this process does not.
    Pages that processes share are counted in each. Without /proc (not Linux): this process and its largest worker.
    """

    def __init__(self) -> None:
        self._peak_bytes = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="peak-memory", daemon=True)

    @property
    def gb(self) -> float:
        """So far, in GB (10⁹ bytes)."""
        own, workers = _ru_maxrss_bytes()
        return (max(self._peak_bytes, own) if _PROC.is_dir() else own + workers) / 1e9

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while _PROC.is_dir():
            self._peak_bytes = max(self._peak_bytes, resident_bytes_of_tree(os.getpid()))
            if self._done.wait(_SAMPLE_S):
                return


def resident_bytes_of_tree(root: int) -> int:
    """Resident bytes of the process `root` and of all its descendants now, from /proc; 0 where there is none."""
    pages: dict[int, int] = {}
    children: dict[int, list[int]] = {}
    for entry in _PROC.iterdir() if _PROC.is_dir() else ():
        if entry.name.isdigit():
            try:
                # the name in brackets may hold spaces and brackets itself
                fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
            except OSError:
                continue  # ended meanwhile
            pages[int(entry.name)] = int(fields[21])
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    family = [root]
    for pid in family:
        family += children.get(pid, [])
    return sum(pages.get(pid, 0) for pid in family) * os.sysconf("SC_PAGE_SIZE")


def _ru_maxrss_bytes() -> tuple[int, int]:
    """Of this process and of its largest worker that has ended."""
    import resource  # POSIX alone has it

    unit = 1 if sys.platform == "darwin" else 1024
    own, workers = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return unit * own, unit * workers
