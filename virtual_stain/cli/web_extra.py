"""The pages are an extra: a machine that only scores does not need a web server."""

from __future__ import annotations

import importlib.util

from virtual_stain.errors import ConfigError
from virtual_stain.installation import install_command

_NEEDED = ("fastapi", "uvicorn", "prometheus_client")


def require_web() -> None:
    """Raises ConfigError with the command that installs what is missing."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"the pages need {', '.join(missing)}, not installed here.", hint=install_command("web"))
