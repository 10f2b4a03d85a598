"""Scoring over HTTP. The page uses nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, Query, Request, Response

from virtual_stain.config import WebSettings
from virtual_stain.markers import ValueDefinition
from virtual_stain.report.colours import ColourScale
from virtual_stain.report.headline import flag_words, headline, no_interval_reason
from virtual_stain.slides.slide import SlideRef
from virtual_stain.value_text import ValueText
from virtual_stain.web.problem import RESPONSES, ApiError
from virtual_stain.web.serve import models as m
from virtual_stain.web.serve.jobs import Job, JobStore, NewJob, State
from virtual_stain.web.serve.registry import Models
from virtual_stain.web.serve.results import KINDS, Results
from virtual_stain.web.serve.root import SlideRoot
from virtual_stain.web.serve.upload import take_upload

_JPEG: dict[int | str, dict[str, Any]] = {200: {"content": {"image/jpeg": {}}, "description": "The picture."}}
_FILE: dict[int | str, dict[str, Any]] = {
    200: {"content": {kind: {} for kind in sorted(set(KINDS.values()))}, "description": "The file."}
}
_SLIDE_BODY = {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
# a report is somebody's file as soon as it is opened: it runs nothing and loads nothing, wherever it is shown
_SANDBOX = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_SHOW = Query(description="To look at, not as a download.")
Kind = Literal["report.json", "tiles.csv", "geojson", "heatmap.png", "report.html"]


@dataclass(frozen=True, slots=True)
class Office:
    """What the scoring API works with."""

    root: SlideRoot
    models: Models
    jobs: JobStore
    results: Results
    settings: WebSettings

    def job(self, number: int) -> Job:
        found = self.jobs.get(number)
        if found is None:
            raise ApiError(404, f"no job {number}.")
        return found

    def shown(self, job: Job) -> m.JobOut:
        readings = [
            m.ReadingOut(marker=r.marker, text=r.text, flags=list(r.flags)) for r in self.results.short_readings(job)
        ]
        return m.JobOut.of(job, self.jobs.ahead_of(job.id) if job.state is State.QUEUED else None, readings)


def serve_router(office: Office) -> APIRouter:
    """All routes below /api but the review's."""
    router = APIRouter(prefix="/api", responses=RESPONSES)
    _add_choice(router, office)
    _add_jobs(router, office)
    _add_results(router, office)
    _add_upload(router, office)
    return router


def _add_choice(router: APIRouter, office: Office) -> None:
    @router.get("/slides", tags=["slides"], summary="Folders and slides below the root")
    def slides(folder: Annotated[str, Query(max_length=1000)] = "") -> m.FolderOut:
        folders, found, truncated = office.root.listing(folder)
        listed = [m.SlideOut(path=s.path, name=s.name, bytes=s.bytes) for s in found]
        return m.FolderOut(folder=folder, folders=folders, slides=listed, truncated=truncated)

    @router.get("/models", tags=["models"], summary="Models to score with")
    def models() -> m.ModelsOut:
        return m.ModelsOut(models=office.models.listing())


def _add_jobs(router: APIRouter, office: Office) -> None:
    @router.post("/jobs", tags=["jobs"], summary="Submit slides", status_code=201)
    def submit(body: m.SubmitBody) -> m.JobsOut:
        if body.model not in office.models.places:
            raise ApiError(422, "no such model: /api/models lists them.")
        new = []
        for slide in dict.fromkeys(body.slides):
            office.root.slide(slide)
            name = SlideRef(Path(PurePosixPath(slide).name)).stem
            new.append(NewJob(slide, name, body.model, body.mpp_um))
        ids = office.jobs.submit(new, limit=office.settings.max_queued_slides)
        if ids is None:
            raise ApiError(429, f"more than {office.settings.max_queued_slides} slides would wait.", "Submit later.")
        return m.JobsOut(jobs=[office.shown(office.job(i)) for i in ids])

    @router.get("/jobs", tags=["jobs"], summary="Jobs, newest first")
    def jobs(
        limit: Annotated[int, Query(ge=1, le=500)] = 100, before: Annotated[m.JobId | None, Query()] = None
    ) -> m.JobPageOut:
        counts = office.jobs.counts()
        return m.JobPageOut(
            jobs=[office.shown(j) for j in office.jobs.listing(limit=limit, before=before)],
            total=sum(counts.values()),
            waiting=counts[State.QUEUED] + counts[State.RUNNING],
        )

    @router.get("/jobs/{number}", tags=["jobs"], summary="One job with its progress")
    def job(number: m.JobId) -> m.JobOut:
        return office.shown(office.job(number))

    @router.delete("/jobs/{number}", tags=["jobs"], summary="Cancel; results that are there are kept")
    def cancel(number: m.JobId) -> m.JobOut:
        office.job(number)
        office.jobs.cancel(number)
        return office.shown(office.job(number))


def _add_results(router: APIRouter, office: Office) -> None:
    @router.get("/jobs/{number}/result", tags=["results"], summary="Readings, warnings and every tile")
    def result(number: m.JobId) -> m.ResultOut:
        job = office.job(number)
        tiles, report = office.results.tiles(job), office.results.report(job)
        readings = report["readings"]
        definition = ValueDefinition(next(iter(readings.values()))["value_definition"])
        return m.ResultOut(
            job=office.shown(job),
            report=report,
            headlines={
                marker: [
                    m.LineOut(name=line.name, value=line.value, note=line.note)
                    for line in headline(marker, reading, no_interval_reason(report, marker))
                ]
                for marker, reading in readings.items()
            },
            flags={marker: flag_words(reading["flags"]) for marker, reading in readings.items()},
            scale=_scale(ColourScale(ValueText(definition))),
            tiles=m.TilesOut(markers=list(tiles.markers), columns=tiles.columns),
        )

    @router.get(
        "/jobs/{number}/overview.jpg",
        tags=["results"],
        summary="The scanned part of the slide, small",
        responses=_JPEG,
        response_class=Response,
    )
    def overview(number: m.JobId) -> Response:
        return Response(office.results.overview(_done(office, number)), media_type="image/jpeg")

    @router.get(
        "/jobs/{number}/virtual.jpg",
        tags=["results"],
        summary="The virtual slide of an indirect model, small: a prediction, not a stain",
        responses=_JPEG,
        response_class=Response,
    )
    def virtual(number: m.JobId) -> Response:
        return Response(office.results.virtual_overview(_done(office, number)), media_type="image/jpeg")

    @router.get(
        "/jobs/{number}/tiles/{col}/{row}.jpg",
        tags=["results"],
        summary="One tile, at full resolution unless px is given",
        responses=_JPEG,
        response_class=Response,
    )
    def tile(
        number: m.JobId,
        col: m.GridIndex,
        row: m.GridIndex,
        px: Annotated[int | None, Query(ge=16, le=2048)] = None,
        virtual: bool = False,
    ) -> Response:
        found = office.results.tile(_done(office, number), col, row, px, virtual=virtual)
        return Response(found, media_type="image/jpeg")

    @router.get(
        "/jobs/{number}/files/{kind}",
        tags=["results"],
        summary="One file of the result",
        responses=_FILE,
        response_class=Response,
    )
    def file(number: m.JobId, kind: Kind, show: Annotated[bool, _SHOW] = False) -> Response:
        job = _done(office, number)
        data = office.results.file(job, kind)
        headers = {"Content-Security-Policy": _SANDBOX}
        if not show:
            headers["Content-Disposition"] = _attachment(f"{job.name}.{kind}")
        return Response(data, media_type=KINDS[kind], headers=headers)


def _add_upload(router: APIRouter, office: Office) -> None:
    @router.put(
        "/uploads/{name}",
        tags=["slides"],
        summary="Take a slide in (off unless web.uploads)",
        status_code=201,
        openapi_extra={"requestBody": _SLIDE_BODY},
    )
    async def upload(name: m.FileName, request: Request) -> m.UploadedOut:
        path, size = await take_upload(request, name, office.root, office.settings)
        return m.UploadedOut(path=path, bytes=size)


def _scale(scale: ColourScale) -> m.ScaleOut:
    return m.ScaleOut(
        top=scale.top,
        gamma=scale.GAMMA,
        colours=[f"#{r:02x}{g:02x}{b:02x}" for r, g, b in scale.table().tolist()],
        bounds=list(scale.bounds),
        statement=scale.statement,
    )


def _done(office: Office, number: int) -> Job:
    job = office.job(number)
    if job.state is not State.DONE:
        raise ApiError(409, f"job {number} has no result: it is {job.state.value}.")
    return job


def _attachment(name: str) -> str:
    """RFC 6266: a plain name for old programs, the real one in UTF-8."""

    plain = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
