"""What the scoring API takes and gives."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from virtual_stain.slides.resolution import READING_RANGE
from virtual_stain.web.serve.jobs import Job, State

RelativePath = Annotated[str, Field(min_length=1, max_length=1000)]
Mpp = Annotated[float, Field(ge=READING_RANGE[0], le=READING_RANGE[1])]
GridIndex = Annotated[int, Field(ge=0, le=999_999_999)]
FileName = Annotated[str, Field(min_length=1, max_length=250, pattern=r"^[^/\\\x00-\x1f\x7f]+$")]
JobId = Annotated[int, Field(ge=1, le=2**62)]


class SubmitBody(BaseModel):
    """Slides to score with one model."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    slides: Annotated[list[RelativePath], Field(min_length=1, max_length=500, description="Paths below the root.")]
    model: Annotated[str, Field(min_length=1, max_length=200, description="An id of /api/models.")]
    mpp_um: tuple[Mpp, Mpp] | None = Field(
        default=None, description="µm per level-0 px along x and y, for slides that carry none or a wrong one."
    )


class ReadingOut(BaseModel):
    """The first reading of one marker, in words."""

    marker: str = Field(description="As in report.json.")
    text: str = Field(description="The global ratio with its interval; of HER2 the score before it.")
    flags: list[str] = Field(description="What to beware of, in short words.")


class JobOut(BaseModel):
    id: int
    slide: str
    name: str
    model: str
    state: State
    stage: str
    tiles_done: int
    tiles_total: int | None
    remaining_s: float | None = Field(description="From the rate so far; null while nothing is known.")
    ahead: int | None = Field(description="Slides before this one; null unless it waits.")
    created_unix_s: float
    started_unix_s: float | None
    ended_unix_s: float | None
    message: str = Field(description="Why it failed.")
    hint: str
    readings: list[ReadingOut] = Field(description="Of a job that is done.")

    @staticmethod
    def of(job: Job, ahead: int | None = None, readings: list[ReadingOut] | None = None) -> JobOut:
        names = ("id", "slide", "name", "model", "state", "stage", "tiles_done", "tiles_total", "remaining_s")
        more = ("created_unix_s", "started_unix_s", "ended_unix_s", "message", "hint")
        return JobOut(ahead=ahead, readings=readings or [], **{n: getattr(job, n) for n in (*names, *more)})


class JobsOut(BaseModel):
    jobs: list[JobOut]


class JobPageOut(JobsOut):
    """A part of all jobs, newest first."""

    total: int = Field(description="Jobs of any state.")
    waiting: int = Field(description="Jobs that wait or run.")


class SlideOut(BaseModel):
    path: str
    name: str
    bytes: int


class FolderOut(BaseModel):
    folder: str
    folders: list[str]
    slides: list[SlideOut]
    truncated: bool


class ModelOut(BaseModel):
    id: str
    kind: str = Field(description="bundle or server")
    markers: list[str]
    version: int | None
    tile_um: float | None
    problem: str | None = Field(description="Why it cannot be used.")


class ModelsOut(BaseModel):
    models: list[ModelOut]


class TilesOut(BaseModel):
    """tiles.csv as columns of equal length; positions in level-0 px."""

    markers: list[str]
    columns: dict[str, list[Any]]


class LineOut(BaseModel):
    """One reading as people see it."""

    name: str
    value: str
    note: str


class ScaleOut(BaseModel):
    """The colour scale of all slides: the colour of a value v is colours[(min(v, top) / top) ** gamma]."""

    top: float
    gamma: float
    colours: list[str] = Field(description="From 0 to top, #rrggbb.")
    bounds: list[float] = Field(description="Ticks of the legend, ascending values.")
    statement: str


class ResultOut(BaseModel):
    """Everything that the result page shows but pictures."""

    job: JobOut
    report: dict[str, Any] = Field(description="As in <stem>.report.json.")
    headlines: dict[str, list[LineOut]] = Field(description="Marker → its readings, most important first.")
    flags: dict[str, list[str]] = Field(description="Marker → the flags of its readings, in short words.")
    scale: ScaleOut
    tiles: TilesOut


class UploadedOut(BaseModel):
    path: str
    bytes: int
