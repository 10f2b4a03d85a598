"""One HTML file that opens from disk, with everything inside."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from virtual_stain.geometry import Box
from virtual_stain.markers import Marker
from virtual_stain.pages import page_environment
from virtual_stain.report.colours import ColourScale
from virtual_stain.report.evidence import evidence_of
from virtual_stain.report.headline import flag_words, headline
from virtual_stain.report.heatmap import histogram_png, top_tiles
from virtual_stain.report.notes import RESEARCH_USE, difference_text
from virtual_stain.report.report import SlideReport, reading_json
from virtual_stain.version import __version__

GALLERY_PX = 256
ReadTile = Callable[[Box], npt.NDArray[np.uint8]]
"""Level-0 box → uint8[GALLERY_PX, GALLERY_PX, 3]."""


def report_html(report: SlideReport, heatmap: bytes, read_tile: ReadTile) -> str:
    """The text of `<stem>.report.html`. `heatmap`: PNG bytes; `read_tile` reads the gallery's pictures (SlideError)."""
    environment = page_environment("virtual_stain.report")
    environment.filters["value"] = report.shown.text
    return environment.get_template("report.html").render(
        notice=RESEARCH_USE,
        evidence=evidence_of(report.score.card),
        scale=ColourScale(report.shown),
        slide=report.slide,
        score=report.score,
        card=report.score.card,
        shown=report.shown,
        evaluation=report.score.card.training.get("evaluation"),
        model_sha256=report.model_sha256,
        tissue_mm2=report.score.tissue_um2 / 1e6,
        markers=[_marker(report, m, read_tile) for m in report.readings],
        notes=report.notes,
        virtual=report.virtual,
        engine=_engine(report),
        heatmap=_data_url(heatmap, "png"),
        version=__version__,
    )


def _engine(report: SlideReport) -> str:
    """In words: what ran the network, and how far it was from the reference."""
    engine = report.score.engine
    words = [str(engine[k]) for k in ("name", "precision", "device", "address", "transport") if engine.get(k)]
    if engine.get("largest_difference") is not None:
        where = f"the centres of {engine['checked_tiles']} tiles"
        found = difference_text(engine["largest_difference"], report.shown.definition)
        words.append(f"largest difference to float32 on {where} {found}")
    return ", ".join([*words, f"crops: {report.settings.crops}"])


def _marker(report: SlideReport, marker: Marker, read_tile: ReadTile) -> dict[str, Any]:
    histogram = histogram_png(report, marker)
    shown = top_tiles(report.score.markers[marker], report.settings.gallery_tiles)
    return {
        "label": marker.label if marker in report.her2 else report.shown.name(marker),
        "lines": headline(marker.value, reading_json(report, marker), report.intervals[marker].reason or ""),
        "flags": flag_words(report.flags(marker)),
        "of": report.shown.of(marker),
        "definition": report.score.card.value_definition.value,
        "histogram": None if histogram is None else _data_url(histogram, "png"),
        "gallery": [_thumbnail(report, marker, i, read_tile) for i in shown],
    }


def _thumbnail(report: SlideReport, marker: Marker, index: int, read_tile: ReadTile) -> dict[str, Any]:
    tile, scores = report.score.tiles[index], report.score.markers[marker]
    stream = io.BytesIO()
    Image.fromarray(read_tile(tile.box)).save(stream, "JPEG", quality=85)
    return {
        "col": tile.col,
        "row": tile.row,
        "value": float(scores.value[index]),
        "cells": float(scores.tumour_cells[index]),
        "image": _data_url(stream.getvalue(), "jpeg"),
    }


def _data_url(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
