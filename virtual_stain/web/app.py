"""One FastAPI application from its parts: the guard, the routes of a tool, health, metrics, static files, /login."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import jinja2
from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.requests import ClientDisconnect

from virtual_stain.version import __version__
from virtual_stain.web.guard import COOKIE, MAX_BODY, Access, Guard, too_many, way_up
from virtual_stain.web.health import Health, add_health
from virtual_stain.web.problem import RESPONSES, add_handlers
from virtual_stain.web.throttle import Throttle

_HERE = Path(__file__).parent


def make_app(
    title: str,
    access: Access,
    routers: Sequence[APIRouter],
    health: Health,
    *,
    pages: Callable[[FastAPI], None],
    body_limits: Callable[[str], int] = lambda path: MAX_BODY,
    lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]] | None = None,
    hidden: Sequence[Path] = (),
) -> FastAPI:
    """`pages` adds the HTML routes, which the API description leaves out."""
    app = FastAPI(
        title=title,
        version=__version__,
        description="Research use only. Fractions are 0–1; positions are level-0 px or tile px, as their names say.",
        docs_url=None,  # its page loads scripts from outside
        redoc_url=None,
        openapi_url="/api/openapi.json",
        responses=RESPONSES,
        lifespan=lifespan,
    )
    add_handlers(app, hidden)
    add_health(app, health)
    for router in routers:
        app.include_router(router)
    app.mount("/static", StaticFiles(directory=_HERE / "static"), name="static")
    throttle = Throttle()
    _add_login(app, access, throttle)
    pages(app)
    app.add_middleware(Guard, access=access, body_limits=body_limits, throttle=throttle)
    return app


def page(request: Request, name: str, **values: Any) -> HTMLResponse:
    """A page from virtual_stain/web/templates, with all its links relative."""
    text = _environment().get_template(name).render(version=__version__, base=way_up(request.url.path), **values)
    return HTMLResponse(text)


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE / "templates"), autoescape=True, undefined=jinja2.StrictUndefined
    )


def _add_login(app: FastAPI, access: Access, throttle: Throttle) -> None:
    @app.get("/login", include_in_schema=False)
    def login(request: Request) -> Response:
        return page(request, "login.html", wrong=False) if access.token is not None else RedirectResponse("./", 303)

    @app.post("/login", include_in_schema=False)
    async def enter(request: Request) -> Response:
        address = request.client.host if request.client else ""
        wait_s = throttle.wait_s(address)
        if wait_s > 0:
            return too_many(wait_s)
        try:
            body = await request.body()
        except ClientDisconnect:  # nobody is there to answer, and nothing is wrong here
            return Response(status_code=400)
        form = parse_qs(body.decode("utf-8", "replace"))
        if not access.is_token(form.get("token", [""])[0].strip()):
            throttle.failed(address)
            response: Response = page(request, "login.html", wrong=True)
            response.status_code = 403
            return response
        throttle.succeeded(address)
        response = RedirectResponse("./", 303)
        # a lie about the scheme costs its teller the session, and nobody else anything
        secure = "https" in (request.url.scheme, request.headers.get("x-forwarded-proto", "").strip().lower())
        response.set_cookie(COOKIE, access.session, httponly=True, samesite="strict", secure=secure)
        return response
