"""Who may ask, and what every answer carries. One piece of middleware in front of everything.

- Without a token only this machine is served, under a loopback name: a page of another site that points its name at
  127.0.0.1 (DNS rebinding) is refused.
- With a token every request needs it, as `Authorization: Bearer …` or as the cookie that /login sets.
- Requests that change something must come from our own page (Sec-Fetch-Site, Origin) and carry a body type that no
  plain form of another site can send; the cookie is SameSite=Strict besides.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from virtual_stain.errors import ConfigError
from virtual_stain.web.problem import problem_response
from virtual_stain.web.throttle import Throttle

COOKIE = "vstain_session"
MIN_TOKEN = 16
_SAFE = ("GET", "HEAD", "OPTIONS")
_OPEN = ("/healthz", "/readyz", "/login")
_BODY_TYPES = ("application/json", "application/octet-stream")
MAX_BODY = 2_000_000
"""Bytes of a request, where its route asks for no more."""

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # no-referrer would make browsers send "Origin: null" with our own form
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), interest-cohort=()",
    "Cache-Control": "no-store",  # tiles of patients do not stay in a browser's cache
}


@dataclass(frozen=True, slots=True)
class Access:
    """Who is let in."""

    host: str
    """The address that is listened on."""
    allowed_hosts: tuple[str, ...] = ()
    token: str | None = None

    def __post_init__(self) -> None:
        if self.token is not None and len(self.token) < MIN_TOKEN:
            raise ConfigError(f"the web token: expected at least {MIN_TOKEN} characters. Received: {len(self.token)}")
        if not is_loopback(self.host) and self.token is None:
            raise ConfigError(
                f"web.host = {self.host}: expected a token, since others on the network could read and decide.",
                hint="VSTAIN_WEB_TOKEN=$(openssl rand -hex 24) vstain …, or listen on 127.0.0.1.",
            )

    @property
    def session(self) -> str:
        """The cookie's value: it proves the token and does not tell it."""
        assert self.token is not None
        return hmac.new(self.token.encode(), b"vstain web session 1", hashlib.sha256).hexdigest()

    def is_token(self, text: str) -> bool:
        return self.token is not None and hmac.compare_digest(text.encode(), self.token.encode())

    def knows_host(self, header: str) -> bool:
        """Whether a browser may call us by this name."""
        try:
            name = urlsplit(f"//{header}").hostname or ""
        except ValueError:
            return False
        if name in {h.lower() for h in (self.host, *self.allowed_hosts)} or is_loopback(name):
            return True
        return self.token is not None and not self.allowed_hosts  # the token is what keeps strangers out


def is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """ASGI middleware."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        access: Access,
        body_limits: Callable[[str], int] = lambda path: MAX_BODY,
        open_prefixes: Collection[str] = ("/static/",),
        throttle: Throttle | None = None,
    ) -> None:
        """`throttle`: counts wrong tokens, those of the login page among them."""
        self._throttle = throttle or Throttle()
        self._app, self._access, self._limit = app, access, body_limits
        self._open_prefixes = tuple(open_prefixes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refusal = self._refusal(scope)
        await (refusal or self._app)(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        if not self._access.knows_host(headers.get("host", "")):
            return problem_response(
                421, "this server is not known under that name.", "Add the name to web.allowed_hosts."
            )
        return self._unauthorised(scope, headers) or self._forged(scope, headers)

    def _unauthorised(self, scope: Scope, headers: Headers) -> Response | None:
        path = scope["path"]
        if self._access.token is None or path in _OPEN or path.startswith(self._open_prefixes):
            return None
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            refusal = self._throttle_of(scope, given.strip())
            if refusal is not None or self._access.is_token(given.strip()):
                return refusal
        if hmac.compare_digest(_cookie(headers).encode(), self._access.session.encode()):
            return None
        if scope["method"] == "GET" and "text/html" in headers.get("accept", ""):
            return RedirectResponse(f"{way_up(path)}login", 303)
        refusal = problem_response(401, "expected the token of this server.", "Authorization: Bearer TOKEN, or /login")
        refusal.headers["WWW-Authenticate"] = "Bearer"
        return refusal

    def _throttle_of(self, scope: Scope, given: str) -> Response | None:
        """A wrong token is counted; an address that has given too many waits, whatever it gives next."""
        address = (scope.get("client") or ("",))[0]
        wait_s = self._throttle.wait_s(address)
        if wait_s > 0:
            return too_many(wait_s)
        if self._access.is_token(given):
            self._throttle.succeeded(address)
        else:
            self._throttle.failed(address)
        return None

    def _forged(self, scope: Scope, headers: Headers) -> Response | None:
        if scope["method"] in _SAFE:
            return None
        site, origin = headers.get("sec-fetch-site"), headers.get("origin")
        if site not in (None, "same-origin", "none") or (origin is not None and not _same(origin, headers)):
            return problem_response(403, "a request from another site's page is not served.")
        if scope["method"] == "DELETE":  # no form and no plain request of another site can send it
            return None
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if scope["path"] != "/login" and kind not in _BODY_TYPES:
            return problem_response(415, f"expected {_BODY_TYPES[0]}. Received: {kind[:80] or 'nothing'}")
        return self._too_large(scope, headers)

    def _too_large(self, scope: Scope, headers: Headers) -> Response | None:
        length = headers.get("content-length", "")
        if "transfer-encoding" in headers or not (length.isascii() and length.isdigit() and len(length) < 19):
            return problem_response(411, "expected a Content-Length.")
        limit = self._limit(scope["path"])
        if int(length) > limit:
            return problem_response(413, f"expected at most {limit} bytes. Received: {length}")
        return None


def too_many(wait_s: float) -> Response:
    """The answer to an address that has given too many wrong tokens."""
    refusal = problem_response(429, "too many wrong tokens from this address.", f"Wait {wait_s:.0f} s.")
    refusal.headers["Retry-After"] = str(math.ceil(wait_s))
    return refusal


def way_up(path: str) -> str:
    """From a page's path to the server's own root, relatively: links hold below whatever prefix a proxy puts before.

    >>> way_up("/"), way_up("/jobs/5")
    ('./', '../')
    """
    return "../" * (path.count("/") - 1) or "./"


def _same(origin: str, headers: Headers) -> bool:
    try:
        return urlsplit(origin).netloc.lower() == headers.get("host", "").lower() != ""
    except ValueError:
        return False


def _cookie(headers: Headers) -> str:
    cookie: SimpleCookie = SimpleCookie()
    try:
        cookie.load(headers.get("cookie", ""))
    except CookieError:
        return ""
    found: Any = cookie.get(COOKIE)
    return "" if found is None else str(found.value)
