"""Starts the model process and starts it again when it ends."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from pathlib import Path

from virtual_stain.errors import ModelError

LOG = "model-process.log"
_AGAIN_S = (0.5, 2.0, 10.0)  # a process that dies at once is not started in a circle
_STOP_S = 15.0


class Supervisor:
    """One child process, watched by one thread; also a context manager."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._stop = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._watch, name="model-process", daemon=True)
        self.restarts = 0

    def __enter__(self) -> Supervisor:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Lets the model process put its slide back; after 15 s it is killed (the slide is then taken up as well)."""
        self._stop.set()
        process = self._process
        if process is not None and process.poll() is None:
            process.terminate()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
        self._thread.join(_STOP_S)

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def require_alive(self) -> None:
        """Raises ModelError."""
        if self._process is None or self._process.poll() is not None:
            raise ModelError("the model process is not running.", hint=f"{LOG} in the server's folder tells why.")

    def _watch(self) -> None:
        early = 0
        while not self._stop.is_set():
            started = time.monotonic()
            with (self._out / LOG).open("ab") as log:
                command = [sys.executable, "-m", "virtual_stain.web.serve.model_process", str(self._out)]
                self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            with contextlib.suppress(Exception):
                self._process.wait()
            if self._stop.is_set():
                return
            self.restarts += 1
            early = 0 if time.monotonic() - started > 60 else min(early + 1, len(_AGAIN_S))
            self._stop.wait(_AGAIN_S[max(0, early - 1)])
