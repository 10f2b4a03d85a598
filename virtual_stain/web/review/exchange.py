"""Verdicts out to and in from other programs: CSV and QuPath GeoJSON."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from virtual_stain.errors import InputError
from virtual_stain.geometry import Box
from virtual_stain.review.correction import correct
from virtual_stain.review.qupath import TileIn, TileOut, difference, from_geojson, to_geojson
from virtual_stain.review.settle import settle_one
from virtual_stain.review.store import clean_name, standing
from virtual_stain.review.verdicts import COLUMNS, CORRECTION, Place, Verdict, parse_verdicts
from virtual_stain.tables import quote_formula
from virtual_stain.web.review.desk import ReviewDesk
from virtual_stain.web.review.folder import ReviewPair
from virtual_stain.workflows.tissue_file import read_tissue

MORE = (CORRECTION, "time_utc", "stale")
_CELLS_UP_TO = 2000
"""Tiles: QuPath becomes slow beyond; then cells are written of decided tiles only."""


def export_csv(desk: ReviewDesk) -> str:
    """Every standing verdict of every reader, oldest first; `build-records --verdicts` reads the columns it knows."""
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*COLUMNS, *MORE])
    for decision in standing(desk.store.decisions()):
        verdict = decision.verdict
        label = desk.folder.label(verdict.place)
        stale = label is None or label.label_id != verdict.label_id
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(decision.time_unix_s))
        correction = "" if verdict.correction is None else verdict.correction.to_json()
        place = verdict.place
        row = [place.pair, place.col, place.row, verdict.label_id, verdict.decision.value]
        texts = [quote_formula(verdict.reviewer), quote_formula(verdict.reason)]
        writer.writerow([*row, *texts, correction, when, int(stale)])
    return stream.getvalue()


def export_geojson(desk: ReviewDesk, pair: ReviewPair) -> str:
    """The tiles of a pair with the verdict that counts, and their cells, in QuPath's frame of the H&E slide."""
    _, reviewed = desk.reviewed()
    tiles = []
    for label in pair.labels:
        entry = reviewed.entry(label)
        verdict = settle_one([d.verdict for d in entry.decisions]).verdict if entry.decisions else None
        cells = None
        if verdict is not None or len(pair.labels) <= _CELLS_UP_TO:
            cells = desk.folder.cells(label)
            if verdict is not None and verdict.correction is not None:
                cells = correct(cells, verdict.correction).cells
        tiles.append(TileOut(label.place, label.label_id, Box(*label.box_px0), verdict, cells))
    return to_geojson(tiles, desk.folder.tile_px, _offset(desk, pair.name))


def parse_import(desk: ReviewDesk, kind: str, text: str, reviewer: str | None) -> list[Verdict]:
    """Raises ValueError that says what is wrong, InputError (every bad row of a CSV)."""
    if kind == "csv":
        try:
            verdicts = parse_verdicts(text, "the table")
        except InputError as error:
            raise ValueError(str(error)) from None
        named = [replace(v, reviewer=clean_name(reviewer or v.reviewer)) for v in verdicts]
        _require_one_each(named)
        for verdict in named:
            _require_possible(desk, verdict)
        return [replace(v, line=0) for v in named]
    if reviewer is None:
        raise ValueError("reviewer: expected the name of who decided, since GeoJSON does not tell")
    return [_verdict(desk, tile, reviewer) for tile in from_geojson(text)]


def _require_one_each(verdicts: Iterable[Verdict]) -> None:
    """Under one name a label has one verdict: readers who differ are not to be merged into the last of them."""
    first: dict[tuple[Place, str, str], Verdict] = {}
    for verdict in verdicts:
        known = first.setdefault((verdict.place, verdict.label_id, verdict.reviewer), verdict)
        if (known.decision, known.correction) != (verdict.decision, verdict.correction):
            place = verdict.place
            raise ValueError(
                f"lines {known.line} and {verdict.line}: {place.pair} {place.col},{place.row} has two different "
                f"verdicts of {verdict.reviewer}. Import the readers under their own names."
            )


def _require_possible(desk: ReviewDesk, verdict: Verdict) -> None:
    """A correction of a label that is there must be one of its cells; that of a label which has changed is stale."""
    label = desk.folder.label(verdict.place)
    if verdict.correction is None or label is None or label.label_id != verdict.label_id:
        return
    problem = verdict.correction.problem(desk.folder.cells(label), desk.folder.tile_px)
    if problem:
        place = verdict.place
        raise ValueError(f"line {verdict.line}: {place.pair} {place.col},{place.row}: {problem}")


def _verdict(desk: ReviewDesk, tile: TileIn, reviewer: str) -> Verdict:
    verdict = Verdict(tile.place, tile.label_id, tile.decision, reviewer, tile.reason)
    label = desk.folder.label(tile.place)
    if verdict.decision.value != "accept" or not tile.has_cells or label is None or label.label_id != tile.label_id:
        return verdict
    x, y, width, height = label.box_px0
    offset = _offset(desk, tile.place.pair)
    scale = desk.folder.tile_px / np.array([width, height])
    points = {k: (v + offset - (x, y)) * scale for k, v in tile.points.items()}
    correction = difference(desk.folder.cells(label), points)
    problem = correction and correction.problem(desk.folder.cells(label), desk.folder.tile_px)
    if problem:
        raise ValueError(f"{tile.place.pair} {tile.place.col},{tile.place.row}: {problem}")
    return replace(verdict, correction=correction)


def _offset(desk: ReviewDesk, pair: str) -> tuple[float, float]:
    """The corner of the H&E scan, level-0 px: the tissue overview covers exactly the scan."""
    folder = desk.folder.path(pair).parent
    try:
        matrix = read_tissue(folder, "he").px0_from_ov.matrix
    except (OSError, KeyError):
        raise InputError(
            f"{folder}: its tissue map is missing or damaged, so QuPath's frame is not known.",
            hint="vstain build-records makes it again.",
        ) from None
    return float(matrix[0, 2]), float(matrix[1, 2])
