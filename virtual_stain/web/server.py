"""Runs an application under uvicorn until it is interrupted."""

from __future__ import annotations

import logging
import os
import socket

import uvicorn
from fastapi import FastAPI

from virtual_stain.config import WebSettings
from virtual_stain.errors import ConfigError
from virtual_stain.web.below_prefix import BelowPrefix
from virtual_stain.web.connections import BoundedLog, LimitedProtocol, max_connections
from virtual_stain.web.guard import Access

TOKEN = "VSTAIN_WEB_TOKEN"
_BACKLOG = 128


def access_of(settings: WebSettings) -> Access:
    """The token comes from the environment, never from a command line or a file of settings. Raises ConfigError."""
    return Access(settings.host, settings.allowed_hosts, os.environ.get(TOKEN) or None)


def listen(settings: WebSettings) -> socket.socket:
    """A bound socket. Raises ConfigError."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((settings.host, settings.port))
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise ConfigError(
            f"web.host = {settings.host}, web.port = {settings.port}: cannot be listened on: {error.strerror}.",
            hint="Another port: --port 0 takes any free one.",
        ) from None
    return sock


def url_of(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def server_of(app: FastAPI | BelowPrefix) -> uvicorn.Server:
    """uvicorn as it is run here. No access log: addresses hold names of slides.

    What a proxy says of addresses is not believed: whoever reaches this port could say it too, and guess tokens from
    another address each time.
    """
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=LimitedProtocol,
            ws="none",
            proxy_headers=False,
            log_level="warning",
            access_log=False,
            server_header=False,
            lifespan="on",
            timeout_graceful_shutdown=3,
        )
    )


def run(app: FastAPI, sock: socket.socket, root_path: str = "") -> None:
    """Serves below `root_path` until Ctrl-C or SIGTERM."""
    LimitedProtocol.limit = max_connections()
    bounded = BoundedLog()
    for name in ("uvicorn.error", "asyncio"):
        logging.getLogger(name).addFilter(bounded)
    server_of(BelowPrefix(app, root_path) if root_path else app).run(sockets=[sock])
