"""One pair of files registered into one folder: what `vstain register` does, for one pair and for each of a cohort.

A pair whose slides, settings and code are those of the last run is not registered again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from virtual_stain.config import Config
from virtual_stain.errors import InputError, OutputError
from virtual_stain.files import folder_lock, read_json, sha256_file, write_bytes, write_json, write_text
from virtual_stain.progress import QUIET, Progress
from virtual_stain.provenance import Outcome, RunRecord, code_sha256, refuse_foreign_run
from virtual_stain.registration.landmarks import Landmarks
from virtual_stain.registration.overlay import jpeg
from virtual_stain.registration.register import register_pair
from virtual_stain.registration.result import Registration
from virtual_stain.registration.store import H5_NAME, JSON_NAME, read_registration, write_registration
from virtual_stain.slides.slide import Slide, SlideRef, open_slide
from virtual_stain.slides.tissue import find_tissue
from virtual_stain.workflows.aligned_slide import ALIGNED_NAME, write_aligned
from virtual_stain.workflows.register_page import PAGE_NAME, draw_page

OVERLAY_NAME = "overlay.jpg"
_RUN = "run.json"
_ALIGNED_CODE = ("slides", "registration/transform.py", "workflows/aligned_slide.py", "workflows/pyramid.py")
_WRITTEN = (JSON_NAME, H5_NAME, OVERLAY_NAME, PAGE_NAME)
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


def register_files(job: RegistrationJob, progress: Progress = QUIET) -> Registration:
    """Registers, and writes registration.json and .h5, overlay.jpg, registration.html and run.json, whatever the
    verdict; with `aligned_mpp` also aligned.ome.tif, unless the pair is rejected. An aligned slide of an earlier
    registration is removed.

    Raises SlideError, NoTissueError, ResolutionError, and OutputError where the folder cannot be written or holds the
    registration of other slides (unless `force`).
    """
    with open_slide(job.he) as he, open_slide(job.ihc) as ihc, folder_lock(job.out):
        refuse_foreign_run(job.out, "register")
        if not job.force:
            _refuse_other_pair(job.out, he, ihc)
        for slide in (he, ihc):
            for warning in slide.warnings:
                progress.say(f"{slide.path}: {warning}")
        key = _key(job, he, ihc)
        registration = None if job.force else _finished(job.out, key)
        if registration is None:
            for slide in (he, ihc):
                for warning in find_tissue(slide, job.config.tissue).warnings:
                    progress.say(f"{slide.path}: {warning}")
            registration = _register(job, he, ihc, key)
        else:
            progress.say(f"{job.out}: registered already; --force does it again.")
        if job.aligned_mpp is not None:
            _align(job, he, ihc, registration, progress)
    return registration


def _register(job: RegistrationJob, he: Slide, ihc: Slide, key: str) -> Registration:
    started = time.monotonic()
    # the aligned slide of an earlier registration would lie wrong under this one, whatever comes of it
    (job.out / ALIGNED_NAME).unlink(missing_ok=True)
    registration = register_pair(he, ihc, job.config.registration, job.config.tissue, job.landmarks)
    registered = time.monotonic()
    write_registration(registration, job.out)
    overlay, page = draw_page(he, ihc, registration, job.out.name, job.config)
    write_bytes(job.out / OVERLAY_NAME, jpeg(overlay))
    write_text(job.out / PAGE_NAME, page)
    name = f"{registration.he.name} / {registration.ihc.name}"
    RunRecord(
        command="register",
        config=_settings(job.config),
        inputs={
            str(job.he.path): registration.he.content_sha256,
            str(job.ihc.path): registration.ihc.content_sha256,
        },
        durations_s={"register": registered - started, "write": time.monotonic() - registered},
        outcomes=[Outcome(name, registration.usable, registration.reason())],
        extra={"input_key": key, "files": _hashes(job.out)},
    ).write(job.out)  # last: it vouches for the others
    return registration


def _align(job: RegistrationJob, he: Slide, ihc: Slide, registration: Registration, progress: Progress) -> None:
    path = job.out / ALIGNED_NAME
    if registration.rejected:
        path.unlink(missing_ok=True)
        progress.say(f"{path}: not written: {registration.reason()}")
        return
    run = read_json(job.out / _RUN, "the record of a run")
    wanted = {"mpp": job.aligned_mpp, "code": code_sha256(*_ALIGNED_CODE)}
    if path.exists() and run.get("aligned") == {**wanted, "sha256": sha256_file(path)}:
        progress.say(f"{path}: written already; --force does it again.")
        return
    write_aligned(he, ihc, registration.transform, path, mpp=job.aligned_mpp or None, progress=progress)
    write_json(job.out / _RUN, {**run, "aligned": {**wanted, "sha256": sha256_file(path)}})


def _settings(config: Config) -> dict[str, Any]:
    return {k: dataclasses.asdict(v) for k, v in (("registration", config.registration), ("tissue", config.tissue))}


def _key(job: RegistrationJob, he: Slide, ihc: Slide) -> str:
    """Hash of everything that the result depends on."""
    marks = None if job.landmarks is None else [job.landmarks.he_px0.tolist(), job.landmarks.ihc_px0.tolist()]
    value = {
        "code": code_sha256("slides", "registration", "workflows/register_page.py", "workflows/templates"),
        "he": [he.content_hash(), job.he.mpp_override],
        "ihc": [ihc.content_hash(), job.ihc.mpp_override],
        "landmarks": marks,
        **_settings(job.config),
    }
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode("utf-8")).hexdigest()


def _finished(out: Path, key: str) -> Registration | None:
    """What an earlier run with equal inputs left, where its files are as it left them."""
    try:
        run = read_json(out / _RUN, "the record of a run")
        if run["input_key"] != key or run["files"] != _hashes(out):
            return None
        return read_registration(out)
    except (InputError, KeyError, TypeError):
        return None


def _hashes(out: Path) -> dict[str, str]:
    return {name: sha256_file(out / name) for name in _WRITTEN if (out / name).exists()}


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
