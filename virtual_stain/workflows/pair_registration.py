"""The stage that registers a pair: of `vstain register`, and the first of `build-records`."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from virtual_stain.config import Config
from virtual_stain.files import write_bytes
from virtual_stain.labels.jpeg import encode_jpeg
from virtual_stain.registration.landmarks import Landmarks
from virtual_stain.registration.overlay import draw_overlay
from virtual_stain.registration.register import register_pair, side_images
from virtual_stain.registration.result import Registration
from virtual_stain.registration.store import H5_NAME, JSON_NAME, read_registration, write_registration
from virtual_stain.reuse import MadeFrom, is_finished, made_from, publish, read_record, withdraw
from virtual_stain.slides.nuclear_scale import of_nuclei
from virtual_stain.slides.slide import Slide
from virtual_stain.slides.tissue import TissueMap, find_tissue, require_tissue
from virtual_stain.workflows.pair_sides import require_sides
from virtual_stain.workflows.tissue_file import TISSUE_NAME, write_tissue

_log = logging.getLogger("vstain.workflows")

OVERLAY = "overlay.jpg"
REGISTRATION_FILES = (JSON_NAME, H5_NAME)
_OVERLAY_QUALITY = 88
_RECORD = "registered.json"
_WRITTEN = (*REGISTRATION_FILES, TISSUE_NAME)


def registration_made_from(
    he: Slide, ihc: Slide, config: Config, landmarks: Landmarks | None = None, section: int | None = None
) -> MadeFrom:
    """What the registration of two slides depends on."""
    settings = config.to_dict()
    return made_from(
        __name__,
        inputs={
            "he": [he.content_hash(), _mpp(he)],
            "ihc": [ihc.content_hash(), _mpp(ihc)],
            "landmarks": None if landmarks is None else [landmarks.he_px0.tolist(), landmarks.ihc_px0.tolist()],
            "section": section,
        },
        # a pair that was registered because the user insisted is looked at again where nobody does
        settings={section: settings[section] for section in ("registration", "tissue")}
        | ({"any_stain": True} if config.counting.any_stain else {}),
    )


def _mpp(slide: Slide) -> list[float] | None:
    return None if slide.mpp is None else [slide.mpp.x, slide.mpp.y]


@dataclass(frozen=True, slots=True)
class Registered:
    """A pair's registration, and the tissue of its IHC slide where it has just been found."""

    registration: Registration
    ihc_tissue: TissueMap | None


def register_in_work(he: Slide, ihc: Slide, folder: Path, config: Config, section: int | None = None) -> Registered:
    """registration.json and .h5, tissue.h5 and overlay.jpg in `work/<pair>`, or what an earlier run left of the same.

    Raises SlideError, NoTissueError, OutputError; a rejected registration is not an error here.
    """
    made = registration_made_from(he, ihc, config, section=section)
    if is_finished(read_record(folder / _RECORD), made, folder, _WRITTEN):
        return Registered(read_registration(folder), None)
    withdraw(folder / _RECORD)
    tissue = {
        side: require_tissue(slide.path, find_tissue(slide, config.tissue))
        for side, slide in (("he", he), ("ihc", ihc))
    }
    for slide, found in ((he, tissue["he"]), (ihc, tissue["ihc"])):
        for warning in (*slide.warnings, *found.warnings):
            _log.warning("%s: %s", slide.path, warning)
    if not config.counting.any_stain:
        require_sides(he, ihc, tissue["he"], tissue["ihc"])
    registration = register_pair(he, ihc, config.registration, config.tissue, section=section)
    for slide, side in ((he, registration.he), (ihc, registration.ihc)):
        for warning in of_nuclei(side.warnings):
            _log.warning("%s: %s", slide.path, warning)
    write_registration(registration, folder)
    overlay = draw_overlay(*side_images(he, ihc, config.registration, config.tissue), registration)
    write_bytes(folder / OVERLAY, encode_jpeg(overlay, _OVERLAY_QUALITY))
    write_tissue(folder, tissue)
    publish(folder / _RECORD, made, _WRITTEN)
    return Registered(registration, tissue["ihc"])
