"""The second piece of work on a pair: its tiles, in parts of at most 64, and their joining. Runs in workers.

A kill loses at most one part. A part that is there with the right hash is not made again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from virtual_stain.config import Config
from virtual_stain.counting.slide_stain import SlideStain
from virtual_stain.errors import VerificationError
from virtual_stain.files import make_folder, output_errors, sha256_file
from virtual_stain.labels.build import build_tile, transform_sha256
from virtual_stain.labels.ihc_block import count_block, sampling_of_pair
from virtual_stain.labels.label import TileLabel
from virtual_stain.labels.raster import block_of_one, cut_blocks
from virtual_stain.labels.regions import read_regions
from virtual_stain.labels.sources import PairSources, TileSettings
from virtual_stain.labels.store import join_parts, stored_fingerprint, write_tiles
from virtual_stain.registration.store import H5_NAME, JSON_NAME, read_registration
from virtual_stain.reuse import MadeFrom, digest_of, file_hashes, made_from
from virtual_stain.slides.resolution import require_mpp
from virtual_stain.slides.slide import Slide, open_slide
from virtual_stain.tiles import TileRef, make_grid
from virtual_stain.workflows.pair import TILES, PairJob, PreparedPair, tile_settings
from virtual_stain.workflows.tissue_file import TISSUE_NAME, read_tissue

TILES_PER_PART = 64
_WANTED_PARTS = 32  # small pairs are cut finer, so that they too use all processors
_MIN_TILES_PER_PART = 6  # two rows by three columns: smaller blocks are mostly margin
_WIDE_BANDS = 9  # tiles a part from which a band is three rows high: two are, of smaller parts
_PARTS = "tiles.parts"


@dataclass(frozen=True, slots=True)
class PartJob:
    """Some neighbouring tiles of one pair."""

    prepared: PreparedPair
    index: int
    tiles: tuple[TileRef, ...]

    @property
    def path(self) -> Path:
        return self.prepared.job.folder / _PARTS / f"{self.index:04d}.h5"

    @property
    def fingerprint(self) -> str:
        return _with_windows(self.prepared.fingerprint, self.tiles)


@dataclass(frozen=True, slots=True)
class PartDone:
    """What a part cost."""

    built: int
    """Tiles made now; 0 when the part was there."""
    seconds: float
    """Processor time of the worker."""


def cut(prepared: PreparedPair) -> list[PartJob]:
    """The parts of a pair: the same for every number of processors, so that a later run finds them.

    The tiles are taken column by column from bands of two or three rows: so a part holds neighbours, which are counted
    together.
    """
    size = min(TILES_PER_PART, max(_MIN_TILES_PER_PART, -(-len(prepared.tiles) // _WANTED_PARTS)))
    band = 3 if size >= _WIDE_BANDS else 2
    tiles = sorted(prepared.tiles, key=lambda t: (t.row // band, t.col, t.row))
    chunks = [tiles[i : i + size] for i in range(0, len(tiles), size)]
    # without the other parts' tiles, which would travel to the worker for nothing
    light = dataclasses.replace(prepared, tiles=())
    return [PartJob(light, index, tuple(chunk)) for index, chunk in enumerate(chunks)]


def tiles_made_from(job: PairJob, he: Slide, ihc: Slide, stain: dict[str, Any]) -> MadeFrom:
    """What the tiles of a registered pair depend on, but the windows. Registration and tissue count by their files."""
    sides = (("he", he), ("ihc", ihc))
    mpp = {side: require_mpp(slide) for side, slide in sides}
    regions = (job.he_roi, job.ihc_roi)
    return made_from(
        __name__,
        inputs={
            **{side: [slide.content_hash(), [mpp[side].x, mpp[side].y]] for side, slide in sides},
            "registration": file_hashes(job.folder, (JSON_NAME, H5_NAME, TISSUE_NAME)),
            "regions": [None if path is None else sha256_file(path) for path in regions],
            "marker": job.marker.value,
            "stain": stain,
        },
        settings=tile_settings(job.config, "tiling", "registration", "counting", "labels"),
    )


def tiles_fingerprint(prepared: PreparedPair) -> str:
    """The fingerprint of the pair's whole tiles.h5."""
    return _with_windows(prepared.fingerprint, prepared.tiles)


def is_built(prepared: PreparedPair) -> bool:
    """Whether tiles.h5 is there, made from the same inputs."""
    return stored_fingerprint(prepared.job.folder / TILES) == tiles_fingerprint(prepared)


def build_part(part: PartJob) -> PartDone:
    """Builds the tiles of one part and writes them whole. Raises SlideError, OutputError."""
    if stored_fingerprint(part.path) == part.fingerprint:
        return PartDone(0, 0.0)
    started = time.process_time()
    job = part.prepared.job
    registration = read_registration(job.folder)
    settings = TileSettings(
        tile_px=job.config.tiling.tile_px,
        tile_mpp=job.config.tiling.tile_mpp,
        max_p95_um=job.config.registration.tile_p95_um,
        labels=job.config.labels,
        counting=job.config.counting,
    )
    with open_slide(job.he) as he, open_slide(job.ihc) as ihc:
        sources = PairSources(
            he=he,
            ihc=ihc,
            he_tissue=read_tissue(job.folder, "he"),
            ihc_tissue=read_tissue(job.folder, "ihc"),
            registration=registration,
            transform_sha256=transform_sha256(registration.transform),
            stain=SlideStain.from_dict(part.prepared.stain),
            marker=job.marker,
            regions=read_regions(he, ihc, job.he_roi, job.ihc_roi),
        )
        tiles = _labelled(sources, part.tiles, settings, job.config)
    make_folder(part.path.parent)
    # a name of its own: a worker that outlives a killed run may still be writing the same part
    own = part.path.with_name(f"{part.path.stem}.{os.getpid()}.{secrets.token_hex(4)}.part")
    try:
        write_tiles(own, tiles, part.fingerprint)
        with output_errors(part.path):
            own.replace(part.path)
    finally:
        with contextlib.suppress(OSError):
            own.unlink(missing_ok=True)
    return PartDone(len(tiles), time.process_time() - started)


def _labelled(
    sources: PairSources, tiles: Sequence[TileRef], settings: TileSettings, config: Config
) -> list[TileLabel]:
    """The tiles in their order, block by block."""
    if not tiles:
        return []
    grid = make_grid(sources.he.bounds, require_mpp(sources.he), config.tiling)
    alone = block_of_one(tiles[0], settings.count_px, settings.count_mpp)
    shared = sampling_of_pair(sources, alone).exact
    labelled = []
    for block in cut_blocks(tiles, grid, settings.count_px, settings.margin_px, shared=shared):
        counted = count_block(sources, block, settings)
        labelled += [build_tile(sources, ref, settings, counted) for ref in block.tiles]
    return labelled


def join_pair(prepared: PreparedPair) -> None:
    """Joins all parts into tiles.h5, row by row, and removes them. Raises OutputError, VerificationError."""
    folder = prepared.job.folder
    parts = cut(prepared)
    unfit = [part.path for part in parts if stored_fingerprint(part.path) != part.fingerprint]
    if unfit:
        raise VerificationError(f"{unfit[0]}: expected a part of this run. Received another, or none.")
    if parts:
        places = {(t.col, t.row): i for i, t in enumerate(t for part in parts for t in part.tiles)}
        order = [places[t.col, t.row] for t in prepared.tiles]
        join_parts(folder / TILES, [part.path for part in parts], tiles_fingerprint(prepared), order)
    else:
        write_tiles(folder / TILES, [], tiles_fingerprint(prepared))
    shutil.rmtree(folder / _PARTS, ignore_errors=True)  # a leftover costs space only


def _with_windows(fingerprint: str, tiles: Sequence[TileRef]) -> str:
    return digest_of([fingerprint, [[t.col, t.row, t.tissue_fraction.hex(), t.border] for t in tiles]])
