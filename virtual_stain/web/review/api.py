"""The review over HTTP. The page uses nothing else."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response

from virtual_stain.config import WebSettings
from virtual_stain.review.correction import Correction, cell_names
from virtual_stain.review.verdicts import Place, Verdict
from virtual_stain.web.problem import RESPONSES, ApiError
from virtual_stain.web.review import models as m
from virtual_stain.web.review.desk import ReviewDesk, reviewer_name
from virtual_stain.web.review.exchange import export_csv, export_geojson, parse_import
from virtual_stain.web.review.overview import overview_frame, overview_jpeg

REASONS = (
    "registration: the tiles do not show the same tissue",
    "counting: cells missed or invented",
    "stain or colour: the IHC cannot be read",
    "not tumour",
    "artefact: fold, pen, blur, bubble",
    "other",
)
_JPEG: dict[int | str, dict[str, Any]] = {200: {"content": {"image/jpeg": {}}, "description": "The picture."}}
Side = Literal["he", "ihc"]
TilePath = "/tiles/{pair}/{col}/{row}"


def review_router(desk: ReviewDesk, settings: WebSettings) -> APIRouter:
    """All routes below /api/review."""
    router = APIRouter(prefix="/api/review", tags=["review"], responses=RESPONSES)
    _add_reading(router, desk, settings)
    _add_tiles(router, desk)
    _add_deciding(router, desk)
    _add_exchange(router, desk)
    return router


def _add_reading(router: APIRouter, desk: ReviewDesk, settings: WebSettings) -> None:
    @router.get("", summary="What is under review")
    def folder() -> m.FolderOut:
        last, reviewed = desk.reviewed()
        pairs = desk.folder.pairs()
        entries = {p.name: [reviewed.entry(x) for x in p.labels] for p in pairs}
        reviewers = {d.verdict.reviewer for decisions in reviewed.by_place.values() for d in decisions}
        return m.FolderOut(
            name=desk.folder.folder.resolve().name,
            tile_px=desk.folder.tile_px,
            tile_mpp=desk.folder.tile_mpp,
            min_tile_cells=desk.folder.min_tile_cells,
            max_p95_um=desk.folder.max_p95_um,
            pairs_without_tiles=sorted(set(desk.folder.listed_pairs()) - {p.name for p in pairs}),
            pairs=[
                m.PairOut(
                    name=p.name,
                    marker=p.marker,
                    tiles=len(p.labels),
                    tiles_built=p.n_built,
                    decided=sum(e.decided for e in entries[p.name]),
                    patient_id=p.patient_id if settings.show_patient_ids else None,
                )
                for p in pairs
            ],
            flags=sorted({flag for p in pairs for label in p.labels for flag in label.flags}),
            reviewers=sorted(reviewers),
            reasons=list(REASONS),
            last_id=last,
        )

    @router.get("/queue", summary="Labels that pass a filter, in order")
    def queue(query: Annotated[m.QueueQuery, Query()]) -> m.QueueOut:
        last, entries = desk.queue(query.value(), query.order)
        return m.QueueOut(last_id=last, items=[m.Item.of(e) for e in entries])

    @router.get("/changes", summary="What was decided since")
    def changes(after: Annotated[int, Query(ge=0, le=2**62)]) -> m.ChangedOut:
        last, entries = desk.changes(after)
        return m.ChangedOut(last_id=last, items=[m.Item.of(e) for e in entries])

    @router.get("/agreement", summary="How far readers agree on shared tiles")
    def readers() -> m.AgreementsOut:
        found = desk.agreement()
        return m.AgreementsOut(readers=[m.AgreementOut.model_validate(a, from_attributes=True) for a in found])


def _add_tiles(router: APIRouter, desk: ReviewDesk) -> None:
    @router.get(TilePath, summary="A label with its cells")
    def tile(pair: m.PairName, col: m.GridIndex, row: m.GridIndex) -> m.TileOut:
        label = desk.label(Place(pair, col, row))
        cells = desk.folder.cells(label)
        return m.TileOut(
            item=m.Item.of(desk.entry(label)),
            x=[round(v, 2) for v in cells.xy[:, 0].tolist()],
            y=[round(v, 2) for v in cells.xy[:, 1].tolist()],
            name=cell_names(cells),
            has_intensities=cells.intensity is not None,
            corrections=[
                m.ReaderCorrection(reviewer=reader, correction=_correction_out(c))
                for reader, c in desk.corrections(label).items()
            ],
        )

    @router.get(
        TilePath + "/{side}.jpg", summary="The tile at full resolution", responses=_JPEG, response_class=Response
    )
    def picture(
        pair: m.PairName,
        col: m.GridIndex,
        row: m.GridIndex,
        side: Side,
        label_id: Annotated[m.LabelId | None, Query(description="409 unless it is still this label.")] = None,
    ) -> Response:
        label = desk.label(Place(pair, col, row), label_id)
        return Response(desk.folder.jpeg(label, side), media_type="image/jpeg")

    @router.get("/pairs/{pair}/overview", summary="The place of the overview picture on the H&E slide")
    def frame(pair: m.PairName) -> m.FrameOut:
        return m.FrameOut.model_validate(overview_frame(desk.pair(pair)), from_attributes=True)

    @router.get(
        "/pairs/{pair}/overview.jpg", summary="All tiles of a pair, small", responses=_JPEG, response_class=Response
    )
    def overview(pair: m.PairName) -> Response:
        return Response(overview_jpeg(desk.folder, desk.pair(pair)), media_type="image/jpeg")


def _add_deciding(router: APIRouter, desk: ReviewDesk) -> None:
    @router.post("/decisions", summary="One verdict; on disk when this answers", status_code=201)
    def decide(body: m.DecisionBody) -> m.DecidedOut:
        number, entry = desk.decide(
            Verdict(
                Place(body.pair, body.col, body.row),
                body.label_id,
                body.verdict,
                reviewer_name(body.reviewer),
                body.reason.strip(),
                correction=_correction(body.correction),
            ),
            body.request_id,
        )
        return m.DecidedOut(id=number, item=m.Item.of(entry))

    @router.post("/undo", summary="Take the reviewer's latest decision back")
    def undo(body: m.ReviewerBody) -> m.UndoneOut:
        last, entries, n = desk.undo(reviewer_name(body.reviewer))
        return m.UndoneOut(last_id=last, items=[m.Item.of(e) for e in entries], undone=n)

    @router.post("/batch", summary="Accept every undecided label that passes a filter", status_code=201)
    def batch(body: m.BatchBody) -> m.BatchOut:
        last, entries = desk.accept_all(reviewer_name(body.reviewer), body.filter.value(), body.expected)
        return m.BatchOut(last_id=last, items=[m.Item.of(e) for e in entries], accepted=len(entries))


def _add_exchange(router: APIRouter, desk: ReviewDesk) -> None:
    @router.get(
        "/export.csv",
        summary="Every standing verdict",
        responses={200: {"content": {"text/csv": {}}, "description": "As build-records --verdicts takes it."}},
        response_class=Response,
    )
    def table() -> Response:
        return _file(export_csv(desk), "text/csv", "review.csv")

    @router.get(
        "/pairs/{pair}/export.geojson",
        summary="Tiles with verdicts, and cells, for QuPath",
        responses={
            200: {"content": {"application/geo+json": {}}, "description": "In QuPath's frame of the H&E slide."}
        },
        response_class=Response,
    )
    def geojson(pair: m.PairName) -> Response:
        return _file(export_geojson(desk, desk.pair(pair)), "application/geo+json", "review.geojson")

    @router.post("/import", summary="Verdicts of an export that was filled in elsewhere", status_code=201)
    def take(body: m.ImportBody) -> m.ImportedOut:
        reviewer = None if body.reviewer is None else reviewer_name(body.reviewer)
        try:
            verdicts = parse_import(desk, body.format, body.text, reviewer)
        except ValueError as error:
            raise ApiError(422, str(error)) from None
        imported, repeated, stale = desk.take_in(verdicts, body.format)
        return m.ImportedOut(imported=imported, repeated=repeated, stale=stale)


def _correction(body: m.CorrectionBody | None) -> Correction | None:
    try:
        return None if body is None else body.value()
    except ValueError as error:
        raise ApiError(422, str(error)) from None


def _correction_out(correction: Correction) -> m.CorrectionBody:
    return m.CorrectionBody(
        changed=list(correction.changed), removed=list(correction.removed), added=list(correction.added)
    )


def _file(text: str, kind: str, name: str) -> Response:
    return Response(text, media_type=kind, headers={"Content-Disposition": f'attachment; filename="{name}"'})
