"""What every command does with its terminal before it begins."""

from __future__ import annotations

import atexit
import io
import signal
import sys

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
    quiet.install()
    atexit.register(quiet.finish)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
            _show_control_characters(stream)
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
