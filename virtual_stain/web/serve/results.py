"""The results of a job: its files as `vstain score` wrote them, and pixels of its slide for the page."""

from __future__ import annotations

import csv
import json
import os
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import escape

from virtual_stain.errors import InputError
from virtual_stain.files import write_bytes
from virtual_stain.geometry import Box, Size
from virtual_stain.labels.jpeg import encode_jpeg
from virtual_stain.slides.slide import Slide, SlideRef, open_slide
from virtual_stain.slides.window import read_window
from virtual_stain.web.problem import ApiError
from virtual_stain.web.serve.jobs import Job, State
from virtual_stain.web.serve.model_process import result_folder
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


@dataclass(frozen=True, slots=True)
class TileColumns:
    """tiles.csv as columns; a missing value is None."""

    markers: tuple[str, ...]
    columns: dict[str, list[Any]]


class Results:
    """Reads what the model process has written; safe from several threads."""

    def __init__(self, out: Path, root: SlideRoot, *, show_paths: bool) -> None:
        self._out, self._root, self._show_paths = out, root, show_paths
        self._slides: OrderedDict[int, tuple[Slide, threading.Lock]] = OrderedDict()
        self._lock = threading.Lock()

    def file(self, job: Job, kind: str) -> bytes:
        """One file for download. The root's own folder stays here unless the settings show it."""
        data = self._path(job, kind).read_bytes()
        return data if kind == "heatmap.png" else self._public(data)

    def report(self, job: Job) -> dict[str, Any]:
        """The value of report.json."""
        value: dict[str, Any] = json.loads(self.file(job, "report.json"))
        return value

    def _public(self, data: bytes) -> bytes:
        """The text without the root before its slides' paths, as it stands in plain text, HTML and JSON."""
        if self._show_paths:
            return data
        root = f"{self._root.folder}{os.sep}"
        for spelled in {root, str(escape(root)), json.dumps(root)[1:-1], json.dumps(root, ensure_ascii=False)[1:-1]}:
            data = data.replace(spelled.encode(), b"")
        return data

    def tiles(self, job: Job) -> TileColumns:
        """Every tissue tile. Raises InputError."""
        path = self._path(job, "tiles.csv")
        with path.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
            names = list(rows[0]) if rows else []
        markers = tuple(n.removesuffix("_tumour_cells") for n in names if n.endswith("_tumour_cells"))
        columns: dict[str, list[Any]] = {}
        for name in names:
            texts = [row[name] for row in rows]
            if name in ("col", "row", "used"):
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
        slide, lock = self._open(job)
        with lock:
            image = slide.overview(max_px=OVERVIEW_PX).image
        data = encode_jpeg(image, _QUALITY)
        write_bytes(path, data)
        return data

    def tile(self, job: Job, col: int, row: int, px: int | None) -> bytes:
        """One tile as the network saw it, or `px` wide. 404 where there is none."""
        tiles, report = self.tiles(job).columns, self.report(job)
        index = next((i for i, at in enumerate(zip(tiles["col"], tiles["row"], strict=True)) if at == (col, row)), None)
        if index is None:
            raise ApiError(404, f"no tissue tile {col},{row}.")
        x, y, width, height = (tiles[name][index] for name in ("x", "y", "width", "height"))
        side = px or int(report["tiles"]["tile_px"])
        slide, lock = self._open(job)
        with lock:
            image = read_window(slide, Box(x, y, width, height), Size(side, side))
        return encode_jpeg(image, _QUALITY)

    def _open(self, job: Job) -> tuple[Slide, threading.Lock]:
        with self._lock:
            known = self._slides.get(job.id)
            if known is None:
                known = (open_slide(SlideRef(self._root.slide(job.slide), job.mpp, job.name)), threading.Lock())
                self._slides[job.id] = known
            self._slides.move_to_end(job.id)
            while len(self._slides) > _OPEN_SLIDES:
                old, lock = self._slides.popitem(last=False)[1]
                with lock:
                    old.close()
            return known

    def _folder(self, job: Job) -> Path:
        return result_folder(self._out, job.id)

    def _path(self, job: Job, kind: str) -> Path:
        if job.state is not State.DONE:
            raise ApiError(409, f"job {job.id} has no result: it is {job.state.value}.")
        path = self._folder(job) / f"{job.name}.{kind}"
        if not path.is_file():
            raise InputError(f"the result of job {job.id} is not complete any more: {path.name} is missing.")
        return path
