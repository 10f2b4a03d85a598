"""The application of `vstain review`."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse

from virtual_stain.config import WebSettings
from virtual_stain.review.store import DATABASE, ReviewStore
from virtual_stain.web.app import make_app, page
from virtual_stain.web.guard import MAX_BODY, Access
from virtual_stain.web.health import Health
from virtual_stain.web.review.api import review_router
from virtual_stain.web.review.desk import ReviewDesk
from virtual_stain.web.review.folder import RecordFolder

_IMPORT_BODY = 200_000_000


def open_desk(folder: Path) -> ReviewDesk:
    """Raises InputError (no folder of records), OutputError (verdicts cannot be written)."""
    records = RecordFolder(folder)
    return ReviewDesk(records, ReviewStore(folder / DATABASE))


def review_app(desk: ReviewDesk, access: Access, settings: WebSettings, reviewer: str = "") -> FastAPI:
    """`reviewer`: a name to begin with; the page asks where there is none."""

    def pages(app: FastAPI) -> None:
        @app.get("/", include_in_schema=False)
        def index(request: Request) -> HTMLResponse:
            return page(request, "review.html", reviewer=reviewer)

    def ready() -> None:
        desk.folder.pairs()
        desk.store.last_id()

    gauges = {"vstain_review_last_id": ("Rows written to review.sqlite.", lambda: float(desk.store.last_id()))}
    return make_app(
        "vstain review",
        access,
        [review_router(desk, settings)],
        Health(ready=ready, gauges=gauges),
        pages=pages,
        hidden=[desk.folder.folder],
        body_limits=lambda path: _IMPORT_BODY if path == "/api/review/import" else MAX_BODY,
    )
