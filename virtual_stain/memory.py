"""Memory that is no longer needed, given back before the next large step.

Graphs of networks are rings of Python objects around blocks of constants: they stay until the collector comes, and the
C library keeps what they free for itself, gigabytes of it, since each block is below its limit for handing pages back.
"""

from __future__ import annotations

import ctypes
import gc
import sys


def release_memory() -> None:
    """Collects garbage and, where the C library is glibc, hands its free pages back to the system."""
    gc.collect()
    if sys.platform == "linux":
        try:
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        except (OSError, AttributeError):
            return  # another C library: it has its own ways
