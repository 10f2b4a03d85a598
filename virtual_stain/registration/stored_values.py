"""What a stored registration may say: every value by itself, and all of them together."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from virtual_stain.geometry import Affine2D
from virtual_stain.registration.transform import DisplacementField
from virtual_stain.schema_check import problems_with

_REL = 1e-6  # of values that were computed from each other and written with all their digits
_VECTORS = ("distances", "usual", "height", "trust")


def registration_problems(
    document: Mapping[str, Any], displacement: DisplacementField | None, arrays: Mapping[str, Any] | None
) -> list[str]:
    """Everything that is wrong with a document and what lies in the HDF5 file beside it, as sentences."""
    return problems_with(document, "registration") or [
        *_of_matrix(document),
        *_of_errors(document),
        *(p for side in ("he", "ihc") for p in _of_side(side, document[side])),
        *_of_displacement(document, displacement),
        *(() if arrays is None else _of_evidence(document, arrays)),
    ]


def _of_matrix(document: Mapping[str, Any]) -> Iterator[str]:
    values = np.array(document["ihc_from_he"], np.float64)
    if not np.isfinite(values).all() or abs(np.linalg.det(values[:2, :2])) < 1e-9:
        yield f"ihc_from_he: expected a map that can be inverted. Received: {values.tolist()}"
        return
    matrix = Affine2D("ihc_px0", "he_px0", values)
    derived: dict[str, Any] = {
        "rotation_deg": matrix.rotation_deg,
        "mirrored": matrix.mirrored,
        "scales": list(matrix.scales),
    }
    for name, expected in derived.items():
        if name in document and not np.allclose(document[name], expected, rtol=_REL, atol=_REL):
            yield f"{name}: expected {expected} of ihc_from_he. Received: {document[name]}"


def _of_errors(document: Mapping[str, Any]) -> Iterator[str]:
    for unit in ("um", "he_px0"):
        median, p95 = document[f"error_median_{unit}"], document[f"error_p95_{unit}"]
        if median is not None and p95 is not None and median > p95 * (1 + _REL):
            yield f"error_median_{unit}: expected at most the 95th percentile, {p95}. Received: {median}"
    mpp, unit_per_px0 = document["he"]["mpp"], document["evidence"]["unit_per_px0"]
    known = mpp is not None and document["ihc"]["mpp"] is not None
    if known and not np.allclose(unit_per_px0, [mpp["x"], mpp["y"]], rtol=_REL):
        yield f"evidence.unit_per_px0: expected the pixel size of the H&E slide. Received: {unit_per_px0}"


def _of_side(name: str, side: Mapping[str, Any]) -> Iterator[str]:
    x, y, width, height = side["bounds_px0"]
    if x < 0 or y < 0 or x + width > side["width_px0"] + 1 or y + height > side["height_px0"] + 1:
        size = f"{side['width_px0']} × {side['height_px0']} px"
        yield f"{name}.bounds_px0: expected a part of {size}. Received: {side['bounds_px0']}"
    if max(side["width_px0"], side["height_px0"]) > 2**31:
        yield f"{name}: expected a slide. Received one of {side['width_px0']} × {side['height_px0']} px"


def _of_displacement(document: Mapping[str, Any], field: DisplacementField | None) -> Iterator[str]:
    if document["local_displacement"] != (field is not None):
        yield f"local_displacement: expected {field is not None}, as the HDF5 file has it"
    if field is None:
        return
    values = field.values_px0
    place = (*field.origin_px0, *field.spacing_px0)
    if values.ndim != 3 or values.shape[2] != 2 or not np.isfinite(values).all() or not all(map(math.isfinite, place)):
        yield f"displacement: expected finite values, float32[H, W, 2]. Received: {values.shape}"
    elif min(field.spacing_px0) <= 0:
        yield f"displacement: expected a spacing above 0 px. Received: {field.spacing_px0}"
    elif values.size and float(np.abs(values).max()) > max(document["he"]["width_px0"], document["he"]["height_px0"]):
        yield f"displacement: expected less than the slide's size. Received: {float(np.abs(values).max()):g} px"


def _of_evidence(document: Mapping[str, Any], arrays: Mapping[str, Any]) -> Iterator[str]:
    n = document["evidence"]["windows"]
    shapes = {name: np.shape(arrays[name]) for name in ("centres_px0", *_VECTORS)}
    if shapes["centres_px0"] != (n, 2) or any(shapes[name] != (n,) for name in _VECTORS):
        yield f"evidence: expected {n} windows in every table. Received: {shapes}"
    elif not all(np.isfinite(arrays[name]).all() for name in ("centres_px0", "trust")):
        yield "evidence: expected finite places and trust of its windows"
    elif n and not ((arrays["trust"] >= 0) & (arrays["trust"] <= 1)).all():
        yield "evidence: expected a trust of 0 to 1 for every window"
    bare = arrays["bare"]
    if not all(map(math.isfinite, (*bare.origin_px0, *bare.cell_px0))) or (bare.cells.size and min(bare.cell_px0) <= 0):
        yield f"bare: expected cells of a size above 0 px. Received: {bare.cell_px0}"
