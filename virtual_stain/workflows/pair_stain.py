"""The stage of `build-records` that estimates the stain of a pair's IHC slide."""

from __future__ import annotations

import dataclasses
from typing import Any

from virtual_stain.counting.quality import BROWN_NUCLEI
from virtual_stain.counting.slide_stain import NO_CLASS_IS_RIGHT
from virtual_stain.counting.stain import FLAG_SENTENCES, examine_slide_stain
from virtual_stain.errors import InputError
from virtual_stain.files import sha256_file
from virtual_stain.reuse import is_finished, made_from, publish, read_record
from virtual_stain.slides.resolution import require_mpp
from virtual_stain.slides.slide import Slide
from virtual_stain.slides.tissue import TissueMap, find_tissue, require_tissue
from virtual_stain.workflows.pair import PairJob, tile_settings
from virtual_stain.workflows.tissue_file import TISSUE_NAME

_RECORD = "stain.json"


def estimate_in_work(job: PairJob, ihc: Slide, tissue: TissueMap | None) -> dict[str, Any]:
    """The slide's stain (`SlideStain.to_dict`), or what an earlier run found of the same. Raises SlideError.

    `tissue`: None where nobody has looked for it in this run.
    """
    mpp = require_mpp(ihc)
    made = made_from(
        __name__,
        inputs={
            "ihc": [ihc.content_hash(), [mpp.x, mpp.y]],
            "tissue_sha256": sha256_file(job.folder / TISSUE_NAME),
            "on_membrane": job.marker.on_membrane,
        },
        settings=tile_settings(job.config, "counting"),
    )
    record = read_record(job.folder / _RECORD)
    if not is_finished(record, made, job.folder, ()):
        tissue = tissue or require_tissue(ihc.path, find_tissue(ihc, job.config.tissue))
        evidence = examine_slide_stain(ihc, tissue, job.config.counting, membrane=job.marker.on_membrane)
        stain = evidence.stain
        if evidence.brown_nuclei:
            stain = dataclasses.replace(stain, flags=(*stain.flags, BROWN_NUCLEI))
        record = publish(job.folder / _RECORD, made, (), {"stain": stain.to_dict()})
    return dict(record["stain"])


def require_dab(ihc: Slide, flags: tuple[str, ...]) -> None:
    """Raises InputError where the stain that was estimated (`SlideStain.flags`) is not hematoxylin and DAB."""
    reasons = "; ".join(FLAG_SENTENCES[flag] for flag in flags if flag in NO_CLASS_IS_RIGHT)
    if reasons:
        raise InputError(
            f"{ihc.path}: expected an IHC slide, blue and brown. Received: {reasons}.",
            hint="Look at it: vstain count SLIDE --marker ki67 --out DIR. If the slide is right: --force-unsuitable",
        )
