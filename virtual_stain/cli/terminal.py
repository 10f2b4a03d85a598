"""What every command does with its terminal before it begins."""

from __future__ import annotations

import atexit
import io
import signal
import sys
from typing import TextIO

from virtual_stain.cli.quiet_tensorflow import QuietTensorFlow

_SHOWN = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\r\t"} | {
    code: f"\\u{code:04x}" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
}
"""Control characters and those that turn the direction of text: a file's name must not clear or colour a terminal."""


def _show_control_characters(stream: io.TextIOWrapper) -> None:
    write = stream.write
    stream.write = lambda text: write(text.translate(_SHOWN))  # type: ignore[method-assign]


def prepare_terminal() -> None:
    """TensorFlow's lines stay off the terminal; one that lacks a letter shows its number; and SIGTERM (Slurm, Docker)
    ends a command like Ctrl-C."""
    quiet = QuietTensorFlow()
    if _is_the_terminals(sys.stderr):
        quiet.install()
        atexit.register(quiet.finish)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
            _show_control_characters(stream)
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def _is_the_terminals(stream: TextIO | None) -> bool:
    """Whether a stream writes to this process's standard error itself, and not to a caller who listens."""
    try:
        return stream is not None and stream.fileno() == 2
    except (OSError, ValueError):  # it has no descriptor, or is closed
        return False
