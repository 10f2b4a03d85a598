"""An application below a path, for a reverse proxy that passes the path on as it came.

Pages hold relative links only. So a proxy that takes the prefix off needs nothing at all, and the same server answers
both kinds.
"""

from __future__ import annotations

from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send


class BelowPrefix:
    """Takes `prefix` ("/vstain", without a slash at its end) off the paths that begin with it."""

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self._app, self._prefix = app, prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if scope["type"] != "http" or not (path == self._prefix or path.startswith(f"{self._prefix}/")):
            await self._app(scope, receive, send)
            return
        if path == self._prefix:  # without the slash the page's links would lead beside the prefix
            await RedirectResponse(f"{self._prefix}/", 308)(scope, receive, send)
            return
        raw = scope.get("raw_path") or path.encode()
        below = {"path": path[len(self._prefix) :], "raw_path": raw[len(self._prefix.encode()) :]}
        await self._app({**scope, **below}, receive, send)
