"""What the review API takes and gives. Ratios are fractions 0–1, positions tile px or level-0 px as named."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from virtual_stain.review.correction import MAX_CHANGES, NAMES, Correction
from virtual_stain.review.store import StoredDecision
from virtual_stain.review.verdicts import Decision
from virtual_stain.web.review.queue import Entry, Filter, Order, Status

Text = Annotated[str, Field(max_length=500, pattern=r"^[^\x00-\x1f\x7f]*$")]
Name = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]+$")]
PairName = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[^/\\\x00-\x1f\x7f]+$")]
GridIndex = Annotated[int, Field(ge=0, le=999_999_999)]
LabelId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Fraction = Annotated[float, Field(ge=0, le=1)]
CellClassName = Annotated[str, Field(pattern=f"^({'|'.join(map(re.escape, NAMES))})$")]


class Strict(BaseModel):
    """A body in which an unknown key is an error, not a surprise."""

    model_config = ConfigDict(extra="forbid")


class CorrectionBody(Strict):
    """Changes to the counted cells; indices are places in the tile's list of cells."""

    changed: list[tuple[GridIndex, CellClassName]] = Field(default=[], max_length=MAX_CHANGES)
    removed: list[GridIndex] = Field(default=[], max_length=MAX_CHANGES)
    added: list[tuple[float, float, CellClassName]] = Field(default=[], max_length=MAX_CHANGES)

    def value(self) -> Correction | None:
        """None where nothing is changed. Raises ValueError."""
        correction = Correction.parse(self.model_dump())
        return correction if len(correction) else None


class DecisionBody(Strict):
    """One verdict of one person on one label."""

    reviewer: Name
    pair: PairName
    col: GridIndex
    row: GridIndex
    label_id: LabelId
    verdict: Decision
    reason: Text = ""
    correction: CorrectionBody | None = None
    request_id: Annotated[str, Field(pattern=r"^[0-9A-Za-z.-]{8,36}$")] | None = Field(
        default=None, description="Sent again with the same one, a decision is written once."
    )


class FilterBody(Strict):
    """Conditions on labels; all that are given must hold."""

    pair: PairName | None = None
    flag: Text | None = None
    without_flags: bool = False
    ratio_min: Fraction | None = None
    ratio_max: Fraction | None = None
    error_max_um: Annotated[float, Field(ge=0, le=1e6)] | None = None
    status: Status | None = None
    corrected: bool = False

    def value(self) -> Filter:
        return Filter(**self.model_dump())


class QueueQuery(FilterBody):
    """The filter and the order, as query parameters."""

    order: Order = Order.DOUBT

    def value(self) -> Filter:
        return Filter(**self.model_dump(exclude={"order"}))


class BatchBody(Strict):
    """Accepts every undecided label that passes the filter, if there are as many as the person was shown."""

    reviewer: Name
    filter: FilterBody
    expected: Annotated[int, Field(ge=1, le=1_000_000)]


class ReviewerBody(Strict):
    reviewer: Name


class ImportBody(Strict):
    """Verdicts of people who worked elsewhere: the CSV or the GeoJSON of an export, filled in."""

    format: Annotated[str, Field(pattern="^(csv|geojson)$")]
    text: str
    reviewer: Name | None = Field(default=None, description="Who decided; a CSV names them itself.")


class DecisionOut(BaseModel):
    id: int
    time_unix_s: float
    reviewer: str
    verdict: Decision
    reason: str
    label_id: str
    corrected: bool
    origin: str

    @staticmethod
    def of(decision: StoredDecision) -> DecisionOut:
        verdict = decision.verdict
        return DecisionOut(
            id=decision.id,
            time_unix_s=decision.time_unix_s,
            reviewer=verdict.reviewer,
            verdict=verdict.decision,
            reason=verdict.reason,
            label_id=verdict.label_id,
            corrected=verdict.correction is not None,
            origin=decision.origin,
        )


class Item(BaseModel):
    """A label in the queue."""

    pair: str
    col: int
    row: int
    label_id: str
    x_px0: float
    y_px0: float
    width_px0: float
    height_px0: float
    positive: int
    negative: int
    ratio: float | None
    standard_error: float | None
    weight: float
    flags: list[str]
    tissue_fraction: float
    error_median_um: float | None
    error_p95_um: float | None
    doubt: float
    status: Status
    decisions: list[DecisionOut]
    stale: list[DecisionOut]

    @staticmethod
    def of(entry: Entry) -> Item:
        label = entry.label
        x, y, width, height = label.box_px0
        return Item(
            pair=label.place.pair,
            col=label.place.col,
            row=label.place.row,
            label_id=label.label_id,
            x_px0=x,
            y_px0=y,
            width_px0=width,
            height_px0=height,
            positive=label.counts.positive,
            negative=label.counts.negative,
            ratio=label.counts.ratio,
            standard_error=label.counts.standard_error,
            weight=label.weight,
            flags=list(label.flags),
            tissue_fraction=label.tissue_fraction,
            error_median_um=label.error_median_um,
            error_p95_um=label.error_p95_um,
            doubt=label.doubt,
            status=entry.status,
            decisions=[DecisionOut.of(d) for d in entry.decisions],
            stale=[DecisionOut.of(d) for d in entry.stale],
        )


class PairOut(BaseModel):
    name: str
    marker: str
    tiles: int
    tiles_built: int = Field(description="With those whose registration error is unknown or too large: never shown.")
    decided: int
    patient_id: str | None = Field(description="Keyed hash; null unless web.show_patient_ids.")


class FolderOut(BaseModel):
    """What is under review."""

    name: str
    tile_px: int
    tile_mpp: float
    min_tile_cells: int
    max_p95_um: float = Field(description="Registration error above which a tile is left out, µm.")
    pairs: list[PairOut]
    pairs_without_tiles: list[str] = Field(description="Listed by build-records, with nothing to review.")
    flags: list[str]
    reviewers: list[str]
    reasons: list[str]
    last_id: int


class QueueOut(BaseModel):
    last_id: int
    items: list[Item]


class ReaderCorrection(BaseModel):
    reviewer: str
    correction: CorrectionBody


class TileOut(BaseModel):
    """A label with its cells: centres in tile px, and what a person calls each: positive, negative or ignored; of HER2
    a positive cell by its intensity, 1+, 2+ or 3+."""

    item: Item
    x: list[float]
    y: list[float]
    name: list[str]
    has_intensities: bool = Field(description="Positive cells are told apart as 1+, 2+ and 3+ (HER2).")
    corrections: list[ReaderCorrection] = Field(description="Each reader's own; the cells above are as counted.")


class FrameOut(BaseModel):
    """The overview picture's place on the H&E slide."""

    x_px0: float
    y_px0: float
    px0_per_px: float
    width: int
    height: int


class DecidedOut(BaseModel):
    id: int
    item: Item


class ChangedOut(BaseModel):
    """Labels about which something was written."""

    last_id: int
    items: list[Item]


class UndoneOut(ChangedOut):
    undone: int


class BatchOut(ChangedOut):
    accepted: int


class ImportedOut(BaseModel):
    imported: int
    repeated: int = Field(description="Rows that said what was there already.")
    stale: int = Field(description="On labels that have changed since: kept and shown, not applied.")


class AgreementOut(BaseModel):
    first: str
    second: str
    n_shared: int
    n_equal: int
    kappa: float | None
    n_ratios: int
    mean_difference: float | None
    limits_of_agreement: tuple[float, float] | None


class AgreementsOut(BaseModel):
    readers: list[AgreementOut]
