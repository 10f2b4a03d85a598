"""/healthz: the process answers. /readyz: it can do its work. /metrics: for Prometheus."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from pydantic import BaseModel
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from virtual_stain.errors import VirtualStainError
from virtual_stain.web.problem import problem_response


class Alive(BaseModel):
    status: str


@dataclass(frozen=True, slots=True)
class Health:
    """What a tool tells about itself."""

    ready: Callable[[], None] = lambda: None
    """Raises VirtualStainError where work cannot be done now."""
    registry: CollectorRegistry = field(default_factory=lambda: CollectorRegistry(auto_describe=True))
    gauges: dict[str, tuple[str, Callable[[], float]]] = field(default_factory=dict)
    """name → (meaning, value when asked)."""


def add_health(app: FastAPI, health: Health) -> None:
    """Adds the three routes and the counting of requests by route."""
    ProcessCollector(registry=health.registry)
    PlatformCollector(registry=health.registry)
    requests = Counter("vstain_requests", "Requests answered.", ("method", "route", "status"), registry=health.registry)
    seconds = Histogram("vstain_request_seconds", "Time to answer.", ("route",), registry=health.registry)
    for name, (meaning, value) in health.gauges.items():
        Gauge(name, meaning, registry=health.registry).set_function(value)
    app.add_middleware(_Counting, requests=requests, seconds=seconds)

    @app.get("/healthz", tags=["health"], summary="The process answers")
    def healthz() -> Alive:
        return Alive(status="ok")

    @app.get("/readyz", tags=["health"], summary="It can do its work", response_model=Alive)
    def readyz() -> Alive | JSONResponse:
        try:
            health.ready()
        except VirtualStainError as error:
            # what is wrong may name files: it is for the log and the operator, not for whoever asks without a token
            return problem_response(503, f"not ready: {type(error).__name__}")
        return Alive(status="ready")

    @app.get(
        "/metrics",
        tags=["health"],
        summary="For Prometheus",
        responses={200: {"content": {"text/plain": {}}, "description": "Prometheus text format."}},
        response_class=Response,
    )
    def metrics(_: Request) -> Response:
        return Response(generate_latest(health.registry), media_type=CONTENT_TYPE_LATEST)


class _Counting:
    """Counts by route pattern, never by path: paths hold names."""

    def __init__(self, app: ASGIApp, *, requests: Counter, seconds: Histogram) -> None:
        self._app, self._requests, self._seconds = app, requests, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        status = 500

        async def note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, note)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            method = scope["method"] if scope["method"] in ("GET", "POST", "PUT", "DELETE", "HEAD") else "other"
            self._requests.labels(method, route, str(status)).inc()
            self._seconds.labels(route).observe(time.perf_counter() - start)
