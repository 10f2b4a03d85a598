"""One pair of files registered into one folder: what `vstain register` does, for one pair and for each of a cohort.

A pair whose slides, settings and code are those of the last run is not registered again.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from dataclasses import dataclass
from pathlib import Path

from virtual_stain.config import Config
from virtual_stain.errors import InputError, OutputError
from virtual_stain.files import folder_lock, read_json, write_bytes, write_json, write_text
from virtual_stain.progress import QUIET, Progress
from virtual_stain.provenance import Outcome, RunRecord, refuse_foreign_run
from virtual_stain.registration.landmarks import Landmarks
from virtual_stain.registration.overlay import jpeg
from virtual_stain.registration.register import register_pair
from virtual_stain.registration.result import Registration
from virtual_stain.registration.store import JSON_NAME, read_registration, write_registration
from virtual_stain.reuse import MadeFrom, is_finished, publish, read_record, vouched
from virtual_stain.slides.nuclear_scale import of_nuclei
from virtual_stain.slides.probe import require_survivable
from virtual_stain.slides.slide import Slide, SlideRef, open_slide
from virtual_stain.slides.tissue import find_tissue
from virtual_stain.workflows.aligned_slide import ALIGNED_NAME, aligned_made_from, write_aligned
from virtual_stain.workflows.pair_registration import OVERLAY, REGISTRATION_FILES, registration_made_from
from virtual_stain.workflows.pair_sides import SWAPPED, swapped
from virtual_stain.workflows.register_page import PAGE_NAME, draw_page, page_made_from

_log = logging.getLogger("vstain.workflows")

_RUN = "run.json"
_PAGE_FILES = (OVERLAY, PAGE_NAME)
_FORCE = "Choose another --out, or overwrite it with --force."


@dataclass(frozen=True, slots=True)
class RegistrationJob:
    """What to register, where to, and how."""

    he: SlideRef
    ihc: SlideRef
    out: Path
    config: Config
    force: bool = False
    landmarks: Landmarks | None = None
    aligned_mpp: float | None = None
    """Also write the warped IHC at this pixel size, µm/px; 0: that of the H&E."""
    section: int | None = None
    """Which of several sections on the IHC slide, from 1; None: the one that fits best."""


def register_files(job: RegistrationJob, progress: Progress = QUIET) -> Registration:
    """Registers, and writes registration.json and .h5, overlay.jpg, registration.html and run.json, whatever the
    verdict; with `aligned_mpp` also aligned.ome.tif, unless the pair is rejected. An aligned slide of an earlier
    registration is removed.

    Raises SlideError, NoTissueError, ResolutionError, and OutputError where the folder cannot be written or holds the
    registration of other slides (unless `force`);
    PairError where the slides are swapped.
    """
    require_survivable(job.he, job.ihc)
    with open_slide(job.he) as he, open_slide(job.ihc) as ihc, folder_lock(job.out):
        refuse_foreign_run(job.out, "register")
        if not job.force:
            _refuse_other_pair(job.out, he, ihc)
        for slide in (he, ihc):
            for warning in slide.warnings:
                progress.say(f"{slide.path}: {warning}")
        made = registration_made_from(he, ihc, job.config, job.landmarks, job.section)
        registration = None if job.force else _kept(job.out, made)
        if registration is None:
            tissue = [find_tissue(slide, job.config.tissue) for slide in (he, ihc)]
            for slide, found in zip((he, ihc), tissue, strict=True):
                for warning in found.warnings:
                    progress.say(f"{slide.path}: {warning}")
            registration = _register(job, he, ihc, made, swapped(he, ihc, *tissue))
            for slide, side in ((he, registration.he), (ihc, registration.ihc)):
                for warning in of_nuclei(side.warnings):
                    progress.say(f"{slide.path}: {warning}")
        else:
            progress.say(f"{job.out}: registered already; --force does it again.")
        for warning in registration.he.warnings:
            if warning.endswith(SWAPPED):  # also with --quiet: both registrations would look as good
                _log.warning("%s, %s: %s", job.he.path, job.ihc.path, warning)
        _draw(job, he, ihc, registration)
        if job.aligned_mpp is not None:
            _align(job, he, ihc, registration, progress)
    return registration


def _kept(out: Path, made: MadeFrom) -> Registration | None:
    """What an earlier run left, made from the same, where its files are as it left them."""
    if not is_finished(read_record(out / _RUN), made, out, REGISTRATION_FILES):
        return None
    try:
        return read_registration(out)
    except InputError:
        return None


def _register(job: RegistrationJob, he: Slide, ihc: Slide, made: MadeFrom, swap: str) -> Registration:
    started = time.monotonic()
    # the aligned slide of an earlier registration would lie wrong under this one, whatever comes of it
    (job.out / ALIGNED_NAME).unlink(missing_ok=True)
    registration = register_pair(he, ihc, job.config.registration, job.config.tissue, job.landmarks, job.section)
    if swap:
        side = dataclasses.replace(registration.he, warnings=(*registration.he.warnings, swap))
        registration = dataclasses.replace(registration, he=side)
    registered = time.monotonic()
    write_registration(registration, job.out)
    name = f"{registration.he.name} / {registration.ihc.name}"
    record = RunRecord(
        command="register",
        config=dict(made.settings),
        inputs={
            str(job.he.path): registration.he.content_sha256,
            str(job.ihc.path): registration.ihc.content_sha256,
        },
        durations_s={"register": registered - started, "write": time.monotonic() - registered},
        outcomes=[Outcome(name, registration.usable, registration.reason())],
    )
    publish(job.out / _RUN, made, REGISTRATION_FILES, record.to_json())
    return registration


def _draw(job: RegistrationJob, he: Slide, ihc: Slide, registration: Registration) -> None:
    """The page and its overlay: drawn again when the way they are drawn has changed, without registering again."""
    record = read_record(job.out / _RUN)
    made = page_made_from(job.out, job.config)
    if is_finished(record.get("page"), made, job.out, _PAGE_FILES):
        return
    overlay, page = draw_page(he, ihc, registration, job.out.name, job.config)
    write_bytes(job.out / OVERLAY, jpeg(overlay))
    write_text(job.out / PAGE_NAME, page)
    write_json(job.out / _RUN, {**record, "page": vouched(made, job.out, _PAGE_FILES)})


def _align(job: RegistrationJob, he: Slide, ihc: Slide, registration: Registration, progress: Progress) -> None:
    path = job.out / ALIGNED_NAME
    if registration.rejected:
        path.unlink(missing_ok=True)
        progress.say(f"{path}: not written: {registration.reason()}")
        return
    record = read_record(job.out / _RUN)
    made = aligned_made_from(job.out, job.aligned_mpp)
    if is_finished(record.get("aligned"), made, job.out, (ALIGNED_NAME,)):
        progress.say(f"{path}: written already; --force does it again.")
        return
    write_aligned(he, ihc, registration.transform, path, mpp=job.aligned_mpp or None, progress=progress)
    write_json(job.out / _RUN, {**record, "aligned": vouched(made, job.out, (ALIGNED_NAME,))})


def _refuse_other_pair(out: Path, he: Slide, ihc: Slide) -> None:
    path = out / JSON_NAME
    if not path.exists():
        return
    try:
        found = read_json(path, "a registration")
        known = [found[side]["content_sha256"] for side in ("he", "ihc")]
    except (InputError, KeyError, TypeError) as error:
        raise OutputError(
            f"{path}: expected an empty folder or the same pair's. Received: {error}", hint=_FORCE
        ) from None
    if known != [he.content_hash(), ihc.content_hash()]:
        raise OutputError(
            f"{out}: expected an empty folder or the same pair's. Received: the registration of other slides "
            f"({found['he'].get('name')} / {found['ihc'].get('name')}).",
            hint=_FORCE,
        )
