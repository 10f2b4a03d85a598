"""registration.json and registration.h5: written together, tied by a hash, read back as the same `Registration`.

The JSON is for people and scripts; the HDF5 holds the same document and adds the displacement and the evidence.
Neither holds a time or a host name: the same pair gives the same bytes.
"""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from virtual_stain.errors import InputError, VerificationError
from virtual_stain.files import make_folder, parse_json, read_json, sha256_file, write_bytes, write_json
from virtual_stain.geometry import Affine2D, Box, Size
from virtual_stain.hdf5 import open_hdf5, read_array
from virtual_stain.registration.bare import BareTissue, nothing_bare
from virtual_stain.registration.result import ErrorEvidence, Registration, Side, Verdict
from virtual_stain.registration.sections import Section
from virtual_stain.registration.stored_values import registration_problems
from virtual_stain.registration.transform import DisplacementField, PairTransform
from virtual_stain.slides.resolution import Mpp

SCHEMA_VERSION = 5
JSON_NAME, H5_NAME = "registration.json", "registration.h5"
_KIND = "vstain registration"
_WINDOWS = ("centres_px0", "distances", "usual", "height", "trust", "apart")
_REGISTER_AGAIN = "Register the pair again: vstain register HE IHC --out DIR"


def write_registration(registration: Registration, folder: Path) -> None:
    """Writes both files into `folder`, each atomically, the JSON (which vouches for the other) last. Raises
    OutputError."""
    make_folder(folder)
    document = _document(registration)
    write_bytes(folder / H5_NAME, _h5_bytes(registration, document))
    document["registration_h5_sha256"] = sha256_file(folder / H5_NAME)
    write_json(folder / JSON_NAME, document)


def read_registration(path: Path) -> Registration:
    """Reads a folder or either file.

    Raises InputError where files are missing (the JSON alone suffices only when no local displacement was
    recorded) and VerificationError where JSON and HDF5 do not belong together.
    """
    if path.is_dir():
        path = path / (JSON_NAME if (path / JSON_NAME).exists() else H5_NAME)
    if not path.exists():
        raise InputError(
            f"{path}: no such registration.",
            hint="Give the folder that `vstain register --out` wrote, or one of its files.",
        )
    if path.suffix.lower() == ".json":
        return _read_json_side(path)
    document, displacement, evidence = _read_h5(path)
    json_path = path.with_name(JSON_NAME)
    if path.name == H5_NAME and json_path.exists():
        beside = _checked(read_json(json_path, "a registration"), json_path)
        _check_hash(path, beside)
        _check_same(json_path, beside, document)
    return _registration(document, displacement, evidence, path)


def _read_json_side(path: Path) -> Registration:
    document = _checked(read_json(path, "a registration"), path)
    h5_path = path.with_name(H5_NAME)
    if h5_path.exists():
        _check_hash(h5_path, document)
        within, displacement, evidence = _read_h5(h5_path)
        _check_same(path, document, within)
        return _registration(document, displacement, evidence, path)
    if document["local_displacement"]:
        raise InputError(
            f"{path}: the registration has a local displacement, which lies in {H5_NAME} beside it. "
            "Received: the JSON alone.",
            hint=f"Put {H5_NAME} of the same run beside it; the matrix alone would be wrong.",
        )
    return _registration(document, None, None, path)


def _check_hash(h5_path: Path, document: dict[str, Any]) -> None:
    expected = document.get("registration_h5_sha256")
    received = sha256_file(h5_path)
    if expected != received:
        raise VerificationError(
            f"{h5_path}: expected the file that {JSON_NAME} was written with (sha256 {expected}). "
            f"Received: sha256 {received}",
            hint=_REGISTER_AGAIN,
        )


def _check_same(json_path: Path, document: dict[str, Any], within: dict[str, Any]) -> None:
    """The HDF5 file holds the same document: a value that was changed in the JSON alone is a wrong value."""
    names = {*document, *within} - {"registration_h5_sha256"}
    differing = sorted(name for name in names if document.get(name) != within.get(name))
    if differing:
        raise VerificationError(
            f"{json_path}: expected the values of {H5_NAME} beside it. Received others: {', '.join(differing)}",
            hint=_REGISTER_AGAIN,
        )


def _document(r: Registration) -> dict[str, Any]:
    matrix = r.transform.ihc_from_he
    return {
        "kind": _KIND,
        "schema_version": SCHEMA_VERSION,
        "ihc_from_he": matrix.matrix.tolist(),
        "coordinates": "level-0 px, pixel centres at +0.5; ihc = ihc_from_he · (he + u(he)), u in registration.h5",
        "local_displacement": r.transform.displacement is not None,
        "verdict": None if r.verdict is None else r.verdict.value,
        "flags": list(r.flags),
        "error_median_um": r.error_median_um,
        "error_p95_um": r.error_p95_um,
        "error_median_he_px0": r.error_median_px0,
        "error_p95_he_px0": r.error_p95_px0,
        "landmark_residual_he_px0": r.landmark_residual_px0,
        "overlap_fraction": r.overlap_fraction,
        "bare_fraction": r.bare_fraction,
        "consensus_fraction": r.consensus_fraction,
        "chance_log10": r.chance_log10,
        "finest_mpp": r.finest_mpp,
        "sections": [_section(s) for s in r.sections],
        "rotation_deg": matrix.rotation_deg,
        "mirrored": matrix.mirrored,
        "scales": list(matrix.scales),
        "he": _side(r.he),
        "ihc": _side(r.ihc),
        "evidence": {
            "windows": len(r.evidence.distances),
            "error_sigma": None if math.isnan(r.evidence.error_sigma) else r.evidence.error_sigma,
            "spacing": r.evidence.spacing,
            "growth": r.evidence.growth,
            "unit_per_px0": list(r.evidence.unit_per_px0),
            "p95_margin_fraction": r.evidence.p95_margin_fraction,
            "pixel_sigma": r.evidence.pixel_sigma,
        },
    }


def _section(section: Section) -> dict[str, Any]:
    return {
        "number": section.number,
        "taken": section.taken,
        "box_px0": [section.box.x, section.box.y, section.box.width, section.box.height],
        "chance_log10": section.chance_log10,
        "consensus_fraction": section.consensus_fraction,
        "correlation": section.correlation,
    }


def _side(side: Side) -> dict[str, Any]:
    mpp = None if side.mpp is None else {"x": side.mpp.x, "y": side.mpp.y, "origin": side.mpp.origin}
    return {
        "name": side.name,
        "width_px0": side.size.width,
        "height_px0": side.size.height,
        "bounds_px0": [side.bounds.x, side.bounds.y, side.bounds.width, side.bounds.height],
        "mpp": mpp,
        "content_sha256": side.content_sha256,
        "warnings": list(side.warnings),
    }


def _h5_bytes(r: Registration, document: dict[str, Any]) -> bytes:
    # in memory first: HDF5 has no crash safety while it is written
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", libver=("v108", "v110")) as file:
        file.attrs["kind"] = _KIND
        file.attrs["schema_version"] = SCHEMA_VERSION
        file.attrs["document"] = json.dumps(document, ensure_ascii=False, allow_nan=False)
        file.create_dataset("ihc_from_he", data=r.transform.ihc_from_he.matrix)
        if r.transform.displacement is not None:
            u = r.transform.displacement
            name = "displacement/values_px0"
            dataset = file.create_dataset(name, data=u.values_px0, compression="gzip", shuffle=True)
            dataset.attrs["origin_px0"] = u.origin_px0
            dataset.attrs["spacing_px0"] = u.spacing_px0
            dataset.attrs["meaning"] = "u at the nodes origin + (column, row) · spacing, H&E level-0 px"
        evidence = file.create_group("evidence")
        evidence.attrs["meaning"] = "held-out windows; distances in µm (H&E level-0 px without pixel size)"
        for name in _WINDOWS:
            evidence.create_dataset(name, data=getattr(r.evidence, name))
        bare = r.evidence.bare
        dataset = file.create_dataset("bare/cells", data=bare.cells.astype(np.uint8), **_packed(bare.cells))
        dataset.attrs["origin_px0"] = bare.origin_px0
        dataset.attrs["cell_px0"] = bare.cell_px0
        dataset.attrs["meaning"] = "1 where the H&E tissue has no IHC tissue under it; lengths in H&E level-0 px"
    return buffer.getvalue()


def _packed(array: npt.NDArray[Any]) -> dict[str, Any]:
    return {"compression": "gzip", "shuffle": True} if array.size else {}  # HDF5 has no chunks of nothing


def _read_h5(path: Path) -> tuple[dict[str, Any], DisplacementField | None, dict[str, Any]]:
    try:
        with open_hdf5(path) as file:
            document = _checked(parse_json(file.attrs["document"], f"{path}: expected a registration"), path)
            evidence: dict[str, Any] = {n: np.asarray(read_array(file["evidence"][n]), np.float64) for n in _WINDOWS}
            evidence["bare"] = _read_bare(file["bare/cells"])
            displacement = None
            if document["local_displacement"]:
                dataset = file["displacement/values_px0"]
                origin, spacing = (tuple(float(v) for v in dataset.attrs[k]) for k in ("origin_px0", "spacing_px0"))
                displacement = DisplacementField(
                    (origin[0], origin[1]), (spacing[0], spacing[1]), np.asarray(read_array(dataset), np.float32)
                )
    except (OSError, KeyError, ValueError, TypeError, IndexError, AttributeError, RuntimeError, MemoryError) as error:
        raise InputError(
            f"{path}: expected a registration (HDF5). Received something else, or a damaged file: {error}",
            hint=_REGISTER_AGAIN,
        ) from None
    return document, displacement, evidence


def _read_bare(dataset: h5py.Dataset) -> BareTissue:
    origin, cell = (tuple(float(v) for v in dataset.attrs[k]) for k in ("origin_px0", "cell_px0"))
    return BareTissue(read_array(dataset) > 0, (origin[0], origin[1]), (cell[0], cell[1]))


def _checked(document: Any, path: Path) -> dict[str, Any]:
    if not isinstance(document, dict) or document.get("kind") != _KIND:
        raise InputError(f"{path}: expected a registration. Received another document.", hint=_REGISTER_AGAIN)
    if document.get("schema_version") != SCHEMA_VERSION:
        raise InputError(
            f"{path}: expected schema version {SCHEMA_VERSION}. Received: {document.get('schema_version')}",
            hint="Use the version of vstain that wrote it, or register the pair again.",
        )
    return document


def _registration(
    d: dict[str, Any], displacement: DisplacementField | None, arrays: dict[str, Any] | None, path: Path
) -> Registration:
    problems = registration_problems(d, displacement, arrays)
    if problems:
        lines = "\n".join(f"  - {p}" for p in problems[:10])
        raise VerificationError(f"{path}: the registration contradicts itself:\n{lines}", hint=_REGISTER_AGAIN)
    try:
        matrix = Affine2D("ihc_px0", "he_px0", np.array(d["ihc_from_he"], np.float64))
        return Registration(
            transform=PairTransform(matrix, displacement),
            verdict=None if d["verdict"] is None else Verdict(d["verdict"]),
            flags=tuple(d["flags"]),
            error_median_um=d["error_median_um"],
            error_p95_um=d["error_p95_um"],
            error_median_px0=d["error_median_he_px0"],
            error_p95_px0=d["error_p95_he_px0"],
            overlap_fraction=d["overlap_fraction"],
            bare_fraction=d["bare_fraction"],
            consensus_fraction=d["consensus_fraction"],
            chance_log10=d["chance_log10"],
            finest_mpp=d["finest_mpp"],
            he=_read_side(d["he"]),
            ihc=_read_side(d["ihc"]),
            evidence=_read_evidence(d["evidence"], arrays),
            landmark_residual_px0=d["landmark_residual_he_px0"],
            sections=tuple(_read_section(s) for s in d["sections"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: the registration is incomplete or damaged: {error!r}", hint=_REGISTER_AGAIN
        ) from None


def _read_side(value: dict[str, Any]) -> Side:
    mpp = value["mpp"]
    return Side(
        value["name"],
        Size(value["width_px0"], value["height_px0"]),
        Box(*value["bounds_px0"]),
        None if mpp is None else Mpp(mpp["x"], mpp["y"], mpp["origin"]),
        value["content_sha256"],
        tuple(value.get("warnings", ())),
    )


def _read_section(value: dict[str, Any]) -> Section:
    return Section(
        value["number"],
        Box(*value["box_px0"]),
        value["taken"],
        value["chance_log10"],
        value["consensus_fraction"],
        value["correlation"],
    )


def _read_evidence(value: dict[str, Any], arrays: dict[str, Any] | None) -> ErrorEvidence:
    # a JSON alone carries no windows: errors at a place are then unknown (infinite), never guessed
    if arrays is None:
        arrays = {name: np.zeros((0, 2) if name == "centres_px0" else 0) for name in _WINDOWS}
        arrays["bare"] = nothing_bare()
    unit = value["unit_per_px0"]
    return ErrorEvidence(
        error_sigma=math.nan if value["error_sigma"] is None else value["error_sigma"],
        spacing=value["spacing"],
        growth=value["growth"],
        unit_per_px0=(unit[0], unit[1]),
        p95_margin_fraction=value["p95_margin_fraction"],
        pixel_sigma=value["pixel_sigma"],
        **arrays,
    )
