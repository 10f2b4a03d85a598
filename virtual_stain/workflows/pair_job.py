"""The first piece of work on a pair: register, find tissue, estimate the stain, plan the tiles. Runs in a worker.

Everything lands in `work/<pair>/`. Each stage keeps its work while it would be made from the same (`reuse`).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from virtual_stain.config import Config
from virtual_stain.errors import ResolutionError
from virtual_stain.files import make_folder
from virtual_stain.labels.regions import read_regions
from virtual_stain.pairs import StainPair
from virtual_stain.slides.probe import require_survivable
from virtual_stain.slides.resolution import require_mpp
from virtual_stain.slides.slide import Slide, open_slide
from virtual_stain.tiles import plan_tiles
from virtual_stain.workflows.pair import WORK, PairJob, PreparedPair
from virtual_stain.workflows.pair_registration import register_in_work
from virtual_stain.workflows.pair_stain import estimate_in_work, require_dab
from virtual_stain.workflows.part_job import is_built, tiles_made_from
from virtual_stain.workflows.tissue_file import read_tissue


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
        section=pair.section,
    )


def prepare_pair(job: PairJob) -> PreparedPair:
    """Registers the pair and plans its tiles, or takes up what an earlier run left of the same.

    Raises SlideError, ResolutionError, NoTissueError, ConfigError; a rejected registration is not an error here.
    """
    make_folder(job.folder)
    require_survivable(job.he, job.ihc)
    with open_slide(job.he) as he, open_slide(job.ihc) as ihc:
        require_mpp(he)
        _require_countable(ihc, job.config.counting.max_mpp)
        read_regions(he, ihc, job.he_roi, job.ihc_roi)  # an unusable one is told now, not after an hour
        he_sha256, ihc_sha256 = he.content_hash(), ihc.content_hash()
        registered = register_in_work(he, ihc, job.folder, job.config, job.section)
        registration = registered.registration
        stain = estimate_in_work(job, ihc, registered.ihc_tissue)
        if not job.config.counting.any_stain:
            require_dab(ihc, tuple(stain["flags"]))
        plan = plan_tiles(he, read_tissue(job.folder, "he"), job.config.tiling)
        tiles = tuple(t for t in plan.tiles if t.tissue_fraction >= job.config.labels.min_tissue_fraction)
        made = tiles_made_from(job, he, ihc, stain)
    prepared = PreparedPair(
        job=job,
        fingerprint=made.fingerprint,
        he_sha256=he_sha256,
        ihc_sha256=ihc_sha256,
        error_median_um=registration.error_median_um,
        error_p95_um=registration.error_p95_um,
        verdict=None if registration.verdict is None else registration.verdict.value,
        registration_flags=tuple(registration.flags),
        stain=stain,
        tiles=tiles,
        n_tiles=len(tiles),
        n_glass=plan.n_glass,
        n_little_tissue=len(plan.tiles) - len(tiles),
    )
    return dataclasses.replace(prepared, built=is_built(prepared))


def _require_countable(ihc: Slide, max_mpp: float) -> None:
    """A coarser scan would be enlarged to the tile's pixel size and counted all the same, wrongly."""
    mpp = require_mpp(ihc)
    if max(mpp.x, mpp.y) > max_mpp:
        raise ResolutionError(
            f"{ihc.path}: expected an IHC scan of at most {max_mpp:g} µm/px to count nuclei on. "
            f"Received: {mpp.x:g} × {mpp.y:g} µm/px ({mpp.origin}).",
            hint="Scan at a higher resolution, or correct ihc_mpp in the table.",
        )
