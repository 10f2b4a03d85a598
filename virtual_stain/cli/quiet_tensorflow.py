"""Keeps TensorFlow's own lines off the terminal: at start-up, when it finds a GPU, and when it compiles.

TensorFlow writes by two ways, both from C++ and past Python's streams. One obeys TF_CPP_MIN_LOG_LEVEL. The other
(Abseil's: NUMA nodes, XLA, compiled clusters) obeys nothing that can be set from outside. So from the import of
TensorFlow on, standard error goes through a small process. It leaves such lines out and passes on all others. It is a
process of its own, since a line that says why TensorFlow aborts must arrive after the abort. What else goes wrong in
TensorFlow arrives as an exception.

Python's own messages do not take that way: progress lines stay on the terminal, in their order.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
_ONLY_FATAL = "3"
_LAST_LINES_S = 1.0

_FILTER = r"""
import re, signal, sys
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)  # it ends with the program, whose last lines it has
theirs = re.compile(
    rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+: [IWE] \S+:\d+\] |[IWE]\d{4} \d\d:\d\d:\d+\.\d+ +\d+ \S+:\d+\] |"
    rb"WARNING: All log messages before absl::InitializeLog\(\) is called are written to STDERR"
)
for line in iter(sys.stdin.buffer.readline, b""):
    if not theirs.match(line):
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()
"""


class QuietTensorFlow(MetaPathFinder):
    """Finds no module; is asked before TensorFlow is imported, so that commands without it start no process."""

    def __init__(self) -> None:
        self._stderr: int | None = None
        self._filter: subprocess.Popen[bytes] | None = None

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name == "tensorflow" and self._filter is None and self._stderr is not None:
            self._begin(self._stderr)
        return None

    def install(self) -> None:
        """From now on, in this process and those it starts. Does nothing where the user has chosen a level."""
        if _LEVEL in os.environ or sys.platform == "win32":
            return
        os.environ[_LEVEL] = _ONLY_FATAL
        with contextlib.suppress(OSError):  # a closed standard error: nothing to keep clean
            self._stderr = os.dup(2)
            # before anybody keeps the stream: its messages go where they always went
            sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, encoding=sys.stderr.encoding, errors="backslashreplace")
            sys.meta_path.insert(0, self)

    def _begin(self, stderr: int) -> None:
        command = [sys.executable, "-I", "-S", "-c", _FILTER]
        try:
            self._filter = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=stderr, stderr=subprocess.DEVNULL)
        except OSError:  # no process may be started here: more lines on the terminal, and the same results
            self._stderr = None
        if self._filter is not None and self._filter.stdin is not None:
            os.dup2(self._filter.stdin.fileno(), 2)
            self._filter.stdin.close()

    def finish(self) -> None:
        """Waits for the last lines."""
        if self._filter is not None and self._stderr is not None:
            os.dup2(self._stderr, 2)
            with contextlib.suppress(subprocess.TimeoutExpired):  # a process that was started still holds its end
                self._filter.wait(_LAST_LINES_S)
