"""The application of `vstain serve`."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse

from virtual_stain.errors import ConfigError
from virtual_stain.web.app import make_app, page
from virtual_stain.web.guard import MAX_BODY, Access
from virtual_stain.web.health import Health
from virtual_stain.web.serve.api import Office, serve_router
from virtual_stain.web.serve.jobs import State
from virtual_stain.web.serve.supervisor import Supervisor


def serve_app(office: Office, access: Access, supervisor: Supervisor | None) -> FastAPI:
    """`supervisor`: runs as long as the application does; None: no model process (the jobs wait)."""
    uploads = office.settings.uploads
    limit = round(office.settings.upload_max_mb * 1e6) if uploads else MAX_BODY

    def pages(app: FastAPI) -> None:
        @app.get("/", include_in_schema=False)
        def index(request: Request) -> HTMLResponse:
            return page(request, "serve.html", uploads=uploads)

        @app.get("/jobs/{number}", include_in_schema=False)
        def result(number: int, request: Request) -> HTMLResponse:
            return page(request, "result.html", number=number)

    def ready() -> None:
        office.jobs.counts()
        if not office.root.folder.is_dir():
            raise ConfigError("the root is gone.")
        if supervisor is not None:
            supervisor.require_alive()

    def count(state: State) -> float:
        return float(office.jobs.counts()[state])

    gauges: dict[str, tuple[str, Callable[[], float]]] = {
        f"vstain_jobs_{state.value}": (f"Jobs that are {state.value}.", functools.partial(count, state))
        for state in State
    }
    if supervisor is not None:
        gauges["vstain_model_process_restarts"] = ("Times it ended.", lambda: float(supervisor.restarts))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if supervisor is None:
            yield
            return
        with supervisor:
            yield

    return make_app(
        "vstain serve",
        access,
        [serve_router(office)],
        Health(ready=ready, gauges=gauges),
        pages=pages,
        body_limits=lambda path: limit if path.startswith("/api/uploads/") else MAX_BODY,
        lifespan=lifespan,
        hidden=[] if office.settings.show_paths else [office.root.folder, office.jobs.path.parent],
    )
