"""What `vstain register` does with its words: one pair, or all pairs of a table or folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from virtual_stain.config import Config
from virtual_stain.errors import ConfigError, InputError
from virtual_stain.progress import QUIET, Progress
from virtual_stain.registration.landmarks import read_landmarks, read_pair_landmarks
from virtual_stain.registration.result import summary
from virtual_stain.slides.resolution import REGISTRATION_RANGE
from virtual_stain.slides.slide import SlideRef
from virtual_stain.workflows import register_files as register_files_module
from virtual_stain.workflows.pair_folder import cohort_pairs
from virtual_stain.workflows.register_cohort import INDEX_NAME, CohortRow, error_of, register_cohort, register_share
from virtual_stain.workflows.register_files import RegistrationJob, register_files
from virtual_stain.workflows.register_page import PAGE_NAME
from virtual_stain.workflows.scheduling import open_workers

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterOptions:
    """The options of the command."""

    out: Path
    config: Config
    landmarks: Path | None = None
    mpp_he: tuple[float, float] | None = None
    mpp_ihc: tuple[float, float] | None = None
    aligned_mpp: float | None = None
    """See RegistrationJob."""
    section: int | None = None
    """See RegistrationJob."""
    force: bool = False
    jobs: int = 1
    excel: bool = False
    """Begin the table of a cohort with a byte order mark, so that spreadsheets read umlauts as they are."""
    fail_fast: bool = False
    """Of a cohort: begin nothing more after the first pair that fails or is rejected."""
    scheduler: str | None = None
    """Of a cohort: address of a Dask scheduler, or slurm:…"""


def require_aligned_mpp(mpp: float) -> None:
    """Raises ConfigError for a pixel size that no picture of tissue has; the H&E's own needs none."""
    low, high = REGISTRATION_RANGE
    if not low <= mpp <= high:
        raise ConfigError(
            f"--aligned-mpp: expected µm per px from {low:g} to {high:g}. Received: {mpp:g}",
            hint="--aligned alone writes it with the pixel size of the H&E.",
        )


def run_pair(he: Path, ihc: Path, options: RegisterOptions, progress: Progress = QUIET, say: Say = print) -> None:
    """Registers two files into `options.out`. Raises RejectedError after writing everything."""
    job = RegistrationJob(
        he=SlideRef(he, options.mpp_he),
        ihc=SlideRef(ihc, options.mpp_ihc),
        out=options.out,
        config=options.config,
        force=options.force,
        landmarks=None if options.landmarks is None else read_pair_landmarks(options.landmarks),
        aligned_mpp=options.aligned_mpp,
        section=options.section,
    )
    registration = register_files(job, progress)
    say(summary(registration))
    say(f"page: {options.out / PAGE_NAME}")
    registration.raise_if_rejected()


def run_cohort(
    source: Path,
    options: RegisterOptions,
    progress: Progress = QUIET,
    say: Say = print,
    share: int = 0,
    shares: int = 1,
) -> None:
    """Registers every pair of a table or folder, or number `share` (from 0) of `shares` equal shares.

    Raises BatchError where pairs are rejected or failed, after all are done.
    """
    if options.mpp_he or options.mpp_ihc:
        raise ConfigError(
            "--mpp-he, --mpp-ihc: expected with one pair only.", hint="Columns he_mpp, ihc_mpp of the table state them."
        )
    if options.section is not None:
        raise ConfigError("--section: expected with one pair only.", hint="Column section of the table states it.")
    pairs = cohort_pairs(source, say)
    marks = {} if options.landmarks is None else read_landmarks(options.landmarks)
    if unknown := sorted(set(marks) - {p.pair for p in pairs}):
        names = ", ".join(map(repr, unknown))
        raise InputError(f"{options.landmarks}: expected names of pairs in the column pair. Received: {names}")
    jobs = [
        RegistrationJob(
            p.he,
            p.ihc,
            options.out / p.pair,
            options.config,
            options.force,
            marks.get(p.pair),
            options.aligned_mpp,
            p.section,
        )
        for p in pairs[share::shares]
    ]
    processes = min(options.jobs, max(len(jobs), 1))
    with open_workers(processes, options.scheduler, stage=register_files_module.__name__) as executor:
        if shares == 1:
            rows = register_cohort(
                jobs, options.out, executor, excel=options.excel, fail_fast=options.fail_fast, progress=progress
            )
        else:
            table = f"summary-{share}-of-{shares}.csv"
            rows = register_share(jobs, options.out, executor, table, excel=options.excel, progress=progress)
    _tell(rows, options.out / (INDEX_NAME if shares == 1 else table), say)
    if error := error_of(rows, options.out):
        raise error


def _tell(rows: list[CohortRow], written: Path, say: Say) -> None:
    for r in rows:
        error = "" if r.error_median_um is None else f"median {r.error_median_um:.1f} µm, p95 {r.error_p95_um:.1f} µm"
        if r.error_median_um is None and r.error_median_px0 is not None:
            error = f"median {r.error_median_px0:.1f} px, p95 {r.error_p95_px0:.1f} px of the H&E"
        say(f"{r.verdict:7} {r.pair}  {error or r.reason}")
    say(f"page: {written}")
