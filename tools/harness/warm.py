"""Commands that begin with everything imported: each one is a fork of a process that waits.

Two hundred kills of commands that first import TensorFlow would mostly hit imports, and take an hour. A fork has
memory, files and a process group of its own, and dies of kill −9 like any other process.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import math
import os
import pkgutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

_POLL_S = 0.005


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    returncode: int
    """−9 where it was killed."""
    stderr: str
    pid: int
    """Also the number of its session, of which nothing may stay."""
    cpu_s: float


class Warm:
    """The process that waits; a context manager."""

    def __init__(self, environment: Mapping[str, str], *, network: bool = True) -> None:
        """`network`: with TensorFlow and all that needs it."""
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), *(() if network else ("--light",))],
            preexec_fn=ends_with(os.getpid()),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=dict(environment),
            text=True,
        )
        self._stderr = Path(environment["TMPDIR"]).with_name("warm.stderr")

    def __enter__(self) -> Warm:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        with self._process:
            self._process.kill()

    def run(
        self,
        arguments: list[str],
        *,
        kill_after_cpu_s: float | None = None,
        kill_after_s: float | None = None,
        kill_when: Callable[[], bool] | None = None,
        group: bool = True,
        most_s: float = 3600.0,
    ) -> Ended:
        """`vstain` with these arguments, to its end or to its kill: of the process alone, or of its whole group.

        The kill comes after so many processor seconds, or so many seconds after `kill_when` says so.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"arguments": arguments, "stderr": str(self._stderr)}) + "\n")
        self._process.stdin.flush()
        pid = int(self._process.stdout.readline() or "0")
        if not pid:
            raise RuntimeError("The process that waits has ended.")
        began, due = time.monotonic(), math.inf
        cpu_s = 0.0
        while (used := _cpu_s(pid)) is not None:
            cpu_s = used
            if kill_when is not None and due == math.inf and kill_when():
                due = time.monotonic() + (kill_after_s or 0.0)
            late = time.monotonic() > min(due, began + most_s)
            if late or (kill_after_cpu_s is not None and cpu_s >= kill_after_cpu_s):
                with contextlib.suppress(ProcessLookupError):
                    (os.killpg if group else os.kill)(pid, signal.SIGKILL)
                break
            time.sleep(_POLL_S)
        code = int(self._process.stdout.readline())
        return Ended(code, self._stderr.read_text(errors="replace"), pid, cpu_s)


_PR_SET_PDEATHSIG = 1


def ends_with(parent: int) -> Callable[[], None] | None:
    """What a new child calls so that kill −9 of `parent` ends it too (Linux; None elsewhere).

    Without it a killed harness would leave its command at work on the folder.
    """
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None, use_errno=True)

    def bind() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before this was asked for
            os._exit(1)

    return bind


def alive_in_session(session: int) -> list[int]:
    """Processes of a session that have not ended."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError):
                fields = _stat(int(entry.name))
                if int(fields[3]) == session and fields[0] not in ("Z", "X"):
                    found.append(int(entry.name))
    return found


def _stat(pid: int) -> list[str]:
    """Fields from the state on; names may hold spaces. Raises OSError."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _cpu_s(pid: int) -> float | None:
    """Of the process and of its children that have ended; None where it has ended."""
    try:
        fields = _stat(pid)
    except OSError:
        return None
    if fields[0] in ("Z", "X"):
        return None
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


_NETWORK = ("model", "training", "dataset", "evaluation", "exporting", "records", "scoring", "workflows", "api")


def _import_all(*, network: bool) -> None:
    import virtual_stain

    for package in pkgutil.iter_modules(virtual_stain.__path__, "virtual_stain."):
        if not network and package.name.rpartition(".")[2] in _NETWORK:
            continue
        names = [package.name]
        if package.ispkg:
            folder = importlib.import_module(package.name).__path__
            names += [found.name for found in pkgutil.walk_packages(folder, f"{package.name}.")]
        for name in names:
            with contextlib.suppress(Exception):
                importlib.import_module(name)


def _fork(asked: dict[str, object]) -> int:
    bind = ends_with(os.getpid())
    pid = os.fork()
    if pid:
        return pid
    os.setsid()
    if bind is not None:
        bind()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    nothing = os.open(os.devnull, os.O_RDWR)
    told = os.open(str(asked["stderr"]), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for source, target in ((nothing, 0), (nothing, 1), (told, 2)):
        os.dup2(source, target)
    from virtual_stain.cli.main import run

    code = 1
    try:
        run(asked["arguments"])  # type: ignore[arg-type]
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
    finally:
        import atexit

        atexit._run_exitfuncs()
        sys.stderr.flush()
        os._exit(code)


def _serve() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    _import_all(network="--light" not in sys.argv)
    for line in sys.stdin:
        pid = _fork(json.loads(line))
        print(pid, file=answers, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), file=answers, flush=True)


if __name__ == "__main__":
    _serve()
