"""One pair of files registered into one folder: what `vstain register` and the offline drivers run."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path

import cv2

from virtual_stain.config import Config
from virtual_stain.errors import InputError, OutputError
from virtual_stain.files import folder_lock, read_json, write_bytes
from virtual_stain.progress import QUIET, Progress
from virtual_stain.provenance import Outcome, RunRecord, refuse_foreign_run
from virtual_stain.registration.overlay import draw_overlay
from virtual_stain.registration.raster import Rgb
from virtual_stain.registration.register import register_pair, side_images
from virtual_stain.registration.result import Registration
from virtual_stain.registration.store import JSON_NAME, write_registration
from virtual_stain.slides.slide import Slide, SlideRef, open_slide

OVERLAY_NAME = "overlay.jpg"


@dataclass(frozen=True, slots=True)
class RegistrationJob:
    """What to register, where to, and how."""

    he: SlideRef
    ihc: SlideRef
    out: Path
    config: Config
    force: bool = False


def register_files(job: RegistrationJob, progress: Progress = QUIET) -> Registration:
    """Registers, and writes registration.json, registration.h5, overlay.jpg and run.json, whatever the verdict.

    Raises SlideError, NoTissueError, ResolutionError, and OutputError where the folder cannot be written or holds the
    registration of other slides (unless `force`).
    """
    started = time.monotonic()
    with open_slide(job.he) as he, open_slide(job.ihc) as ihc, folder_lock(job.out):
        refuse_foreign_run(job.out, "register")
        if not job.force:
            _refuse_other_pair(job.out, he, ihc)
        for slide in (he, ihc):
            for warning in slide.warnings:
                progress.say(f"{slide.path}: {warning}")
        registration = register_pair(he, ihc, job.config.registration, job.config.tissue)
        registered = time.monotonic()
        write_registration(registration, job.out)
        picture = overlay_picture(he, ihc, registration, job.config)
        write_bytes(job.out / OVERLAY_NAME, jpeg(picture))
        _record(job, registration, registered - started, time.monotonic() - registered)
    return registration


def overlay_picture(he: Slide, ihc: Slide, registration: Registration, config: Config) -> Rgb:
    """uint8[H, W, 3]: see `draw_overlay`."""
    he_image, ihc_image = side_images(he, ihc, config.registration, config.tissue)
    return draw_overlay(he_image, ihc_image, registration)


def jpeg(rgb: Rgb) -> bytes:
    """The picture as JPEG bytes."""
    _, data = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 90])
    return data.tobytes()


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


_FORCE = "Choose another --out, or overwrite it with --force."


def _record(job: RegistrationJob, registration: Registration, register_s: float, write_s: float) -> None:
    name = f"{registration.he.name} / {registration.ihc.name}"
    RunRecord(
        command="register",
        config={
            k: dataclasses.asdict(v)
            for k, v in (("registration", job.config.registration), ("tissue", job.config.tissue))
        },
        inputs={
            str(job.he.path): registration.he.content_sha256,
            str(job.ihc.path): registration.ihc.content_sha256,
        },
        durations_s={"register": register_s, "write": write_s},
        outcomes=[Outcome(name, registration.usable, registration.reason())],
    ).write(job.out)
