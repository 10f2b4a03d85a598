"""The first piece of work on a pair: register, find tissue, estimate the stain, plan the tiles. Runs in a worker.

Everything lands in `work/<pair>/` with the hash of what it was made from; equal inputs are not worked on again.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from virtual_stain.config import Config
from virtual_stain.counting.count import estimate_slide_stain
from virtual_stain.counting.slide_stain import SlideStain
from virtual_stain.errors import InputError, ResolutionError
from virtual_stain.files import make_folder, read_json, replacing, sha256_file, write_bytes, write_json
from virtual_stain.geometry import Affine2D
from virtual_stain.labels.build import transform_sha256
from virtual_stain.labels.jpeg import encode_jpeg
from virtual_stain.labels.regions import read_regions
from virtual_stain.markers import Marker
from virtual_stain.pairs import StainPair
from virtual_stain.provenance import code_sha256
from virtual_stain.registration.overlay import draw_overlay
from virtual_stain.registration.register import register_pair, side_images
from virtual_stain.registration.result import Registration
from virtual_stain.registration.store import read_registration, write_registration
from virtual_stain.slides.resolution import require_mpp
from virtual_stain.slides.slide import Slide, SlideRef, open_slide
from virtual_stain.slides.tissue import TissueMap, find_tissue, require_tissue
from virtual_stain.tiles import TileRef, plan_tiles
from virtual_stain.version import __version__

_log = logging.getLogger("vstain.workflows")

WORK_VERSION = 1
"""Raised when the meaning of anything in the work folder changes: then it is made again."""
WORK = "work"
OVERLAY = "overlay.jpg"
_OVERLAY_QUALITY = 88
_PREPARED = "prepared.json"
_TISSUE = "tissue.h5"
CODE = (
    "slides",
    "registration",
    "counting",
    "labels",
    "tiles.py",
    "geojson.py",
    "tables.py",
    "geometry.py",
    "markers.py",
)
"""Parts of the package that a tile is computed with: other code makes it again."""
LAYOUT_ONLY = {"labels": ("n_folds", "shard_mb"), "counting": ("value_definition",)}
"""Settings that change no tile: they count when records are packed, and may differ from run to run."""


@dataclass(frozen=True, slots=True)
class PairJob:
    """One pair as workers see it: without the patient."""

    pair: str
    marker: Marker
    he: SlideRef
    ihc: SlideRef
    he_roi: Path | None
    ihc_roi: Path | None
    folder: Path
    """work/<pair>."""
    config: Config


@dataclass(frozen=True, slots=True)
class PreparedPair:
    """What the main process needs to know of a prepared pair."""

    job: PairJob
    key: str
    """Hash of everything that its tiles depend on but the windows themselves."""
    he_sha256: str
    ihc_sha256: str
    error_median_um: float | None
    error_p95_um: float | None
    verdict: str | None
    registration_flags: tuple[str, ...]
    stain: dict[str, Any]
    tiles: tuple[TileRef, ...]
    n_glass: int
    n_little_tissue: int
    """Windows with less tissue than labels.min_tissue_fraction, which are not built."""

    @property
    def usable(self) -> bool:
        """Whether the registration allows tiles at all."""
        return self.verdict in ("accept", "review")

    @property
    def stain_flags(self) -> tuple[str, ...]:
        """What makes the estimate of the IHC stain, and with it every count, less trustworthy."""
        return tuple(self.stain["flags"])


def make_job(pair: StainPair, out: Path, config: Config) -> PairJob:
    """The work on one row of PAIRS.csv, in `out`/work/<pair>."""
    return PairJob(
        pair=pair.pair,
        marker=pair.marker,
        he=pair.he,
        ihc=pair.ihc,
        he_roi=pair.he_roi,
        ihc_roi=pair.ihc_roi,
        folder=out / WORK / pair.pair,
        config=config,
    )


def prepare_pair(job: PairJob) -> PreparedPair:
    """Registers the pair and plans its tiles, or takes up what an earlier run left with equal inputs.

    Raises SlideError, ResolutionError, NoTissueError, ConfigError; a rejected registration is not an error here.
    """
    make_folder(job.folder)
    with open_slide(job.he) as he, open_slide(job.ihc) as ihc:
        require_mpp(he)
        _require_countable(ihc, job.config.counting.max_mpp)
        read_regions(he, ihc, job.he_roi, job.ihc_roi)  # an unusable one is told now, not after an hour
        he_sha256, ihc_sha256 = he.content_hash(), ihc.content_hash()
        input_key = _input_key(job, he_sha256, ihc_sha256)
        state = _reusable(job.folder, input_key)
        if state is None:
            state = _make(job, he, ihc, input_key)
        tissue = read_tissue(job.folder, "he")
        plan = plan_tiles(he, tissue, job.config.tiling)
        tiles = tuple(t for t in plan.tiles if t.tissue_fraction >= job.config.labels.min_tissue_fraction)
    return PreparedPair(
        job=job,
        key=digest_of([input_key, state["transform_sha256"], state["stain"]]),
        he_sha256=he_sha256,
        ihc_sha256=ihc_sha256,
        error_median_um=state["error_median_um"],
        error_p95_um=state["error_p95_um"],
        verdict=state["verdict"],
        registration_flags=tuple(state["flags"]),
        stain=state["stain"],
        tiles=tiles,
        n_glass=plan.n_glass,
        n_little_tissue=len(plan.tiles) - len(tiles),
    )


def _require_countable(ihc: Slide, max_mpp: float) -> None:
    """A coarser scan would be enlarged to the tile's pixel size and counted all the same, wrongly."""
    mpp = require_mpp(ihc)
    if max(mpp.x, mpp.y) > max_mpp:
        raise ResolutionError(
            f"{ihc.path}: expected an IHC scan of at most {max_mpp:g} µm/px to count nuclei on. "
            f"Received: {mpp.x:g} × {mpp.y:g} µm/px ({mpp.origin}).",
            hint="Scan at a higher resolution, or correct ihc_mpp in the table.",
        )


def _input_key(job: PairJob, he_sha256: str, ihc_sha256: str) -> str:
    settings = job.config.to_dict()
    sections = ("tiling", "tissue", "registration", "counting", "labels")
    chosen = {s: {k: v for k, v in settings[s].items() if k not in LAYOUT_ONLY.get(s, ())} for s in sections}
    return digest_of(
        {
            "work_version": WORK_VERSION,
            "software": __version__,
            "code_sha256": code_sha256(*CODE),
            "he": [he_sha256, job.he.mpp_override],
            "ihc": [ihc_sha256, job.ihc.mpp_override],
            "marker": job.marker.value,
            "regions": [None if p is None else sha256_file(p) for p in (job.he_roi, job.ihc_roi)],
            **chosen,
        }
    )


def _make(job: PairJob, he: Slide, ihc: Slide, input_key: str) -> dict[str, Any]:
    (job.folder / _PREPARED).unlink(missing_ok=True)
    he_tissue, ihc_tissue = (require_tissue(s.path, find_tissue(s, job.config.tissue)) for s in (he, ihc))
    for slide, tissue in ((he, he_tissue), (ihc, ihc_tissue)):
        for warning in tissue.warnings:
            _log.warning("%s: %s", slide.path, warning)
    registration = register_pair(he, ihc, job.config.registration, job.config.tissue)
    write_registration(registration, job.folder)
    overlay = draw_overlay(*side_images(he, ihc, job.config.registration, job.config.tissue), registration)
    write_bytes(job.folder / OVERLAY, encode_jpeg(overlay, _OVERLAY_QUALITY))
    _write_tissue(job.folder, {"he": he_tissue, "ihc": ihc_tissue})
    stain: SlideStain = estimate_slide_stain(ihc, ihc_tissue, job.config.counting, membrane=job.marker.on_membrane)
    state = {
        "input_key": input_key,
        "files": _hashes(job.folder),
        "transform_sha256": transform_sha256(registration.transform),
        "error_median_um": registration.error_median_um,
        "error_p95_um": registration.error_p95_um,
        "verdict": None if registration.verdict is None else registration.verdict.value,
        "flags": list(registration.flags),
        "stain": stain.to_dict(),
    }
    write_json(job.folder / _PREPARED, state)  # last: what it vouches for is there
    return state


def _reusable(folder: Path, input_key: str) -> dict[str, Any] | None:
    """The state of an earlier run, when its inputs are equal and its files are as it left them."""
    try:
        state: dict[str, Any] = read_json(folder / _PREPARED, "the state of a pair")
        if state["input_key"] == input_key and state["files"] == _hashes(folder):
            return state
    except (InputError, KeyError, TypeError):
        return None
    return None


def _hashes(folder: Path) -> dict[str, str]:
    files = [p for p in sorted(folder.iterdir()) if p.name in ("registration.json", "registration.h5", _TISSUE)]
    return {p.name: sha256_file(p) for p in files}


def load_registration(folder: Path) -> Registration:
    """The registration that `prepare_pair` wrote."""
    return read_registration(folder)


def digest_of(value: Any) -> str:
    """sha256 (hex) of a JSON value."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _write_tissue(folder: Path, maps: dict[str, TissueMap]) -> None:
    with replacing(folder / _TISSUE) as temporary, h5py.File(temporary, "w") as file:
        for side, tissue in maps.items():
            file.create_dataset(f"{side}/mask", data=tissue.mask, compression="gzip", compression_opts=1)
            file[f"{side}/px0_from_ov"] = tissue.px0_from_ov.matrix


def read_tissue(folder: Path, side: str) -> TissueMap:
    """The tissue mask of one side, without its picture."""
    with h5py.File(folder / _TISSUE, "r") as file:
        mask = np.asarray(file[f"{side}/mask"][:], np.bool_)
        matrix = np.asarray(file[f"{side}/px0_from_ov"][:], np.float64)
    blank = np.zeros((0, 0, 3), np.uint8)
    return TissueMap(mask, Affine2D("px0", "ov", matrix), blank, brightfield=True)
