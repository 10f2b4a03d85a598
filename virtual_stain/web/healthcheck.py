"""`python -m virtual_stain.web.healthcheck`: whether `vstain serve` answers here; for a container's HEALTHCHECK.

In a container that runs another verb there is no server to ask, and the verb's own end tells how it is.
"""

from __future__ import annotations

import sys
import urllib.request
from pathlib import Path

_URL = "http://127.0.0.1:8899/healthz"
_TIMEOUT_S = 4.0


def is_serving(command_line: Path = Path("/proc/1/cmdline")) -> bool:
    """Whether the container's first process is a server."""
    try:
        return b"\0serve\0" in command_line.read_bytes()
    except OSError:
        return True


def main(url: str = _URL) -> int:
    """0: well; 1: the server does not answer."""
    if not is_serving():
        return 0
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:
            return 0 if answer.status == 200 else 1
    except OSError:
        return 1


if __name__ == "__main__":
    sys.exit(main())
