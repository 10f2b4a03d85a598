"""`summary.html`: what a person looks at after `build-records`; one file, opens from disk, no patient in it."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from virtual_stain.counting.stain import FLAG_SENTENCES
from virtual_stain.files import read_json, write_text
from virtual_stain.labels.store import TileTable
from virtual_stain.markers import Marker, ValueDefinition, parse_marker
from virtual_stain.pages import page_environment
from virtual_stain.records.manifest import Manifest, PairEntry
from virtual_stain.registration.result import FLAGS
from virtual_stain.registration.store import JSON_NAME
from virtual_stain.value_text import ValueText
from virtual_stain.workflows.pair_registration import OVERLAY

SUMMARY = "summary.html"
_THUMBNAIL_PX = 360
_Column = npt.NDArray[np.float64]
_FLAG_WORDS = {
    "few_cells": "few cells",
    "poor_overlap": "poor overlap",
    "border": "border of the scan",
    "blur_he": "H&E blurred",
    "blur_ihc": "IHC blurred",
    "corrected": "corrected by hand",
    "classes_unknown": "intensities unknown",
    "registration": "registration unsure",
    "saturated": "nuclei black to the camera",
    "stains_unclear": "stains unclear",
    "uncertain_ratio": "ratio unsure",
}
"""In the order of the page; the review page uses the same words."""


@dataclass(frozen=True, slots=True)
class Used:
    """The tiles of a pair, and which of them are records."""

    table: TileTable
    chosen: Sequence[int]
    stain_flags: tuple[str, ...]

    def counts(self, manifest: Manifest) -> tuple[_Column, _Column]:
        """(counted cells, tumour cells or mm² of tissue) float64[N] of every record whose value may train."""
        index = np.array(self.chosen, np.intp)
        index = index[self.table["weight"][index] > 0]
        positive, negative = (self.table[n][index].astype(np.float64) for n in ("positive", "negative"))
        definition = ValueDefinition(manifest.value_definition)
        window_mm2 = (manifest.tiling.window_um / 1000) ** 2
        whole = positive + negative if definition.is_ratio else self.table["tissue_fraction"][index] * window_mm2
        return positive if definition.of_positive else negative, whole


def write_summary(out: Path, manifest: Manifest, used: Mapping[str, Used], folders: Mapping[str, Path]) -> Path:
    """Writes `out`/summary.html. `used`: the tiles of every pair with records; `folders`: where overlays lie."""
    environment = page_environment("virtual_stain.workflows")
    shown = ValueText(ValueDefinition(manifest.value_definition))
    environment.filters["value"] = shown.text
    environment.filters["um"] = lambda v: "–" if v is None else f"{v:.1f}"
    entries = {e.pair: e for e in manifest.pairs}
    excluded = {e.pair: e.reason for e in manifest.excluded}
    text = environment.get_template("summary.html").render(
        manifest=manifest,
        shown=shown,
        markers=[_marker(manifest, used, m) for m in manifest.markers],
        pairs=[_pair(entries[name], used[name], *used[name].counts(manifest), folders[name]) for name in entries],
        excluded=[
            {
                "pair": name,
                "reason": reason,
                "warnings": _warnings(folders[name]) if name in folders else [],
                "overlay": _thumbnail(folders[name]) if name in folders else None,
            }
            for name, reason in excluded.items()
        ],
        folds=_folds(manifest),
    )
    path = out / SUMMARY
    write_text(path, text)
    return path


def _marker(manifest: Manifest, used: Mapping[str, Used], marker: str) -> dict[str, Any]:
    entries = [e for e in manifest.pairs if e.marker == marker]
    columns = [used[e.pair].counts(manifest) for e in entries]
    counted, whole = (np.concatenate([c[i] for c in columns]) if columns else np.zeros(0) for i in (0, 1))
    shown = ValueText(ValueDefinition(manifest.value_definition))
    return {
        "label": shown.name(parse_marker(marker)),
        "n_ratio": sum(e.n_ratio for e in entries),
        "n_records": sum(e.n_records for e in entries),
        "cells": sum(e.positive + e.negative for e in entries),
        "value": _quotient(counted, whole),
        "histogram": _histogram(parse_marker(marker), counted / whole, shown),
    }


def _quotient(counted: _Column, whole: _Column) -> float | None:
    return float(counted.sum() / whole.sum()) if whole.sum() > 0 else None


def _pair(entry: PairEntry, used: Used, counted: _Column, whole: _Column, folder: Path) -> dict[str, Any]:
    flags = Counter(flag for tile in used.table.flags for flag in tile)
    values = counted / whole
    return {
        "entry": entry,
        "label": parse_marker(entry.marker).label,
        "tiles": len(used.table),
        "stain_flags": [FLAG_SENTENCES.get(flag, flag) for flag in used.stain_flags],
        "registration_flags": [FLAGS.get(flag, flag) for flag in entry.registration.flags],
        "value": _quotient(counted, whole),
        "low": float(np.quantile(values, 0.1)) if len(values) else None,
        "high": float(np.quantile(values, 0.9)) if len(values) else None,
        "flags": [(words, flags[name]) for name, words in _FLAG_WORDS.items() if flags[name]],
        "warnings": _warnings(folder),
        "overlay": _thumbnail(folder),
    }


def _warnings(folder: Path) -> list[str]:
    """What is odd about the files of a pair, as its registration has noted."""
    if not (folder / JSON_NAME).is_file():
        return []
    found = read_json(folder / JSON_NAME, "a registration")
    return [f"{stain}: {text}" for side, stain in (("he", "H&E"), ("ihc", "IHC")) for text in found[side]["warnings"]]


def _folds(manifest: Manifest) -> list[dict[str, int]]:
    result = []
    for fold in range(manifest.n_folds):
        pairs = manifest.pairs_in([fold])
        result.append(
            {
                "fold": fold,
                "patients": len({p.patient_id for p in pairs}),
                "pairs": len(pairs),
                "records": sum(p.n_records for p in pairs),
                "n_ratio": sum(p.n_ratio for p in pairs),
            }
        )
    return result


def _histogram(marker: Marker, values: _Column, shown: ValueText) -> str | None:
    """A PNG as data URL; None without tiles."""
    if not len(values):
        return None
    top = 100.0 if shown.definition.is_ratio else max(1.0, float(values.max()))
    figure = Figure(figsize=(5.6, 2.3), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    bins = np.linspace(0, top, 21).tolist()
    axes.hist(values * shown.factor, bins=bins, color="#7a4b94", edgecolor="white", linewidth=0.6)
    axes.axvline(float(np.mean(values)) * shown.factor, color="#222222", linewidth=1, linestyle="--")
    axes.set_xlim(0, top)
    axes.set_xlabel(f"{shown.of(marker)} in a tile, {shown.unit} (dashed: mean)")
    axes.set_ylabel("tiles")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return _data_url(stream.getvalue(), "png")


def _thumbnail(folder: Path) -> str | None:
    """The registration overlay, small, as data URL."""
    path = folder / OVERLAY
    if not path.is_file():
        return None
    picture = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    if picture is None:
        return None
    scale = min(1.0, _THUMBNAIL_PX / max(picture.shape[:2]))
    small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 82])
    return _data_url(data.tobytes(), "jpeg")


def _data_url(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
