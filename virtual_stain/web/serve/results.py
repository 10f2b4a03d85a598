"""The results of a job: its files as `vstain score` wrote them, and pixels of its slide for the page."""

from __future__ import annotations

import contextlib
import csv
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from virtual_stain.errors import InputError
from virtual_stain.files import read_json, write_bytes
from virtual_stain.geometry import Box, Size
from virtual_stain.labels.jpeg import encode_jpeg
from virtual_stain.markers import CELLS
from virtual_stain.report.headline import flag_words, lead_text
from virtual_stain.slides.slide import Slide, SlideRef, open_slide
from virtual_stain.slides.window import read_window
from virtual_stain.web.problem import ApiError
from virtual_stain.web.serve.jobs import Job, State
from virtual_stain.web.serve.model_process import IDENTITY, identity, result_folder
from virtual_stain.web.serve.root import SlideRoot

KINDS = {
    "report.json": "application/json",
    "tiles.csv": "text/csv",
    "geojson": "application/geo+json",
    "heatmap.png": "image/png",
    "report.html": "text/html",
}
OVERVIEW_PX = 2000
_QUALITY = 90
_OPEN_SLIDES = 3
_KNOWN_READINGS = 2000
"""Jobs whose first readings are kept in memory: the page asks for a hundred of them every second."""


@dataclass(frozen=True, slots=True)
class TileColumns:
    """tiles.csv as columns; a missing value is None."""

    markers: tuple[str, ...]
    columns: dict[str, list[Any]]


@dataclass(frozen=True, slots=True)
class ShortReading:
    """The first reading of one marker, in words."""

    marker: str
    text: str
    flags: tuple[str, ...]


@dataclass(slots=True)
class _Open:
    slide: Slide
    lock: threading.Lock = field(default_factory=threading.Lock)
    users: int = 0


class Results:
    """Reads what the model process has written; safe from several threads."""

    def __init__(self, out: Path, root: SlideRoot) -> None:
        self._out, self._root = out, root
        self._slides: OrderedDict[int, _Open] = OrderedDict()
        self._lock = threading.Lock()
        self._readings: OrderedDict[int, tuple[ShortReading, ...]] = OrderedDict()

    def file(self, job: Job, kind: str) -> bytes:
        """One file, as it was written."""
        return self._path(job, kind).read_bytes()

    def report(self, job: Job) -> dict[str, Any]:
        """The value of report.json."""
        value: dict[str, Any] = read_json(self._path(job, "report.json"), "a report")
        return value

    def short_readings(self, job: Job) -> tuple[ShortReading, ...]:
        """The first reading of every marker; none where the job is not done or its report is gone."""
        if job.state is not State.DONE:
            return ()
        with self._lock:
            known = self._readings.get(job.id)
        if known is None:
            try:
                known = _short_readings(self.report(job))
            except (InputError, KeyError, TypeError, ValueError):
                return ()
            with self._lock:
                self._readings[job.id] = known
                while len(self._readings) > _KNOWN_READINGS:
                    self._readings.popitem(last=False)
        return known

    def tiles(self, job: Job) -> TileColumns:
        """Every tissue tile. Raises InputError."""
        path = self._path(job, "tiles.csv")
        with path.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
            names = list(rows[0]) if rows else []
        markers = tuple(n.removesuffix(CELLS) for n in names if n.endswith(CELLS))
        columns: dict[str, list[Any]] = {}
        for name in names:
            texts = [row[name] for row in rows]
            if name in ("col", "row", "used") or name.startswith("used_"):
                columns[name] = [int(t) for t in texts]
            elif name == "flags":
                columns[name] = [t.split(";") if t else [] for t in texts]
            else:
                columns[name] = [float(t) if t else None for t in texts]
        return TileColumns(markers, columns)

    def overview(self, job: Job) -> bytes:
        """The scanned part of the slide, at most 2000 px; kept beside the results. The label image is never read."""
        path = self._folder(job) / "overview.jpg"
        if path.is_file():
            return path.read_bytes()
        with self._open(job) as slide:
            image = slide.overview(max_px=OVERVIEW_PX).image
        data = encode_jpeg(image, _QUALITY)
        write_bytes(path, data)
        return data

    def virtual_overview(self, job: Job) -> bytes:
        """The virtual slide in the frame of `overview`. 404 where none was drawn."""
        with self._virtual(job) as slide:
            return encode_jpeg(slide.overview(max_px=OVERVIEW_PX).image, _QUALITY)

    def tile(self, job: Job, col: int, row: int, px: int | None, *, virtual: bool = False) -> bytes:
        """One tile as the network saw it, or `px` wide; `virtual`: as it was drawn. 404 where there is none."""
        tiles, report = self.tiles(job).columns, self.report(job)
        index = next((i for i, at in enumerate(zip(tiles["col"], tiles["row"], strict=True)) if at == (col, row)), None)
        if index is None:
            raise ApiError(404, f"no tissue tile {col},{row}.")
        side = int(report["tiles"]["tile_px"])
        size = Size(px or side, px or side)
        if virtual:  # its pixels are the model's, from the first tile on
            with self._virtual(job) as slide:
                image = read_window(slide, Box(col * side, row * side, side, side), size)
        else:
            x, y, width, height = (tiles[name][index] for name in ("x", "y", "width", "height"))
            with self._open(job) as slide:
                image = read_window(slide, Box(x, y, width, height), size)
        return encode_jpeg(image, _QUALITY)

    @contextlib.contextmanager
    def _virtual(self, job: Job) -> Iterator[Slide]:
        name = (self.report(job).get("virtual") or {}).get("file")
        if name is None:
            raise ApiError(404, "no virtual slide was drawn of this slide.", "A model of the indirect path draws one.")
        with open_slide(SlideRef(self._folder(job) / name, virtual=True)) as slide:
            yield slide

    @contextlib.contextmanager
    def _open(self, job: Job) -> Iterator[Slide]:
        """The slide that was scored, for one reader at a time. 409 where another file has taken its place."""
        path = self._root.slide(job.slide)
        self._require_unchanged(job, path)
        with self._lock:
            known = self._slides.get(job.id)
            if known is None:
                known = _Open(open_slide(SlideRef(path, job.mpp, job.name)))
                self._slides[job.id] = known
            known.users += 1
            self._slides.move_to_end(job.id)
        try:
            with known.lock:
                yield known.slide
        finally:
            with self._lock:
                known.users -= 1
                self._close_old()

    def _close_old(self) -> None:
        idle = [number for number, known in self._slides.items() if not known.users]
        for number in idle[: max(0, len(self._slides) - _OPEN_SLIDES)]:
            self._slides.pop(number).slide.close()

    def _require_unchanged(self, job: Job, path: Path) -> None:
        try:
            same = read_json(self._folder(job) / IDENTITY, "what was scored") == identity(path)
        except (InputError, OSError):
            same = False
        if not same:
            raise ApiError(409, "the slide has been replaced since it was scored.", "Score it again.")

    def _folder(self, job: Job) -> Path:
        return result_folder(self._out, job.id)

    def _path(self, job: Job, kind: str) -> Path:
        if job.state is not State.DONE:
            raise ApiError(409, f"job {job.id} has no result: it is {job.state.value}.")
        path = self._folder(job) / f"{job.name}.{kind}"
        if not path.is_file():
            raise InputError(f"the result of job {job.id} is not complete any more: {path.name} is missing.")
        return path


def _short_readings(report: dict[str, Any]) -> tuple[ShortReading, ...]:
    weak = ("model_evidence_weak",) if report.get("model_evidence", {}).get("is_weak") else ()
    found = []
    for marker, reading in report["readings"].items():
        score = (reading.get("her2") or {}).get("score")
        text = lead_text(marker, reading)
        # the top mean is not shown here, so its bias is no doubt about what is
        own = [flag for flag in reading["flags"] if flag != "top_mean_biased"]
        flags = tuple(flag_words([*own, *weak]))
        found.append(ShortReading(marker, text if score is None else f"HER2 score {score}; {text}", flags))
    return tuple(found)
