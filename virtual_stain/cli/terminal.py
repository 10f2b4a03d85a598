"""What every command does with its terminal before it begins."""

from __future__ import annotations

import io
import signal
import sys


def prepare_terminal() -> None:
    """A terminal that lacks a letter shows its number; and SIGTERM (Slurm, Docker) ends a command like Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
