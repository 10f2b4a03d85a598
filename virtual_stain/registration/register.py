"""`register_pair`: from two open slides to a judged registration."""

from __future__ import annotations

import numpy as np

from virtual_stain.config.registration import RegistrationSettings
from virtual_stain.config.tissue import TissueSettings
from virtual_stain.geometry import Affine2D
from virtual_stain.registration.align import Alignment, align, to_pair_transform
from virtual_stain.registration.deepen import deepen
from virtual_stain.registration.precision import Precision, no_precision
from virtual_stain.registration.quality import Evidence
from virtual_stain.registration.raster import Mask
from virtual_stain.registration.result import (
    ErrorEvidence,
    Registration,
    Side,
    Verdict,
    verdict_of,
)
from virtual_stain.registration.transform import PairTransform
from virtual_stain.registration.working import SideImage, WorkingPair, prepare, wanted_resolution
from virtual_stain.slides.resolution import REGISTRATION_RANGE, require_mpp
from virtual_stain.slides.slide import Slide
from virtual_stain.slides.tissue import TissueMap, find_tissue, require_tissue

_FINER_FRACTION = 0.97  # an overview within 3 % of the wanted resolution serves as it is
_WEAK_OVERLAP = 0.5
_UNUSUAL_SCALE = 1.25
_STATED_AT = 1000  # places of the tissue at which the error is asked for


def register_pair(
    he: Slide, ihc: Slide, settings: RegistrationSettings, tissue_settings: TissueSettings
) -> Registration:
    """Finds where each place of the H&E slide lies on the IHC slide, and how surely.

    Does not raise on a bad match: the verdict is then REJECT and the flags say why. Raises NoTissueError,
    SlideError, and ResolutionError for an absurd pixel size. With a pixel size missing on either side: errors in
    px, verdict None.
    """
    for slide in (he, ihc):
        if slide.mpp is not None:
            require_mpp(slide, REGISTRATION_RANGE)
    he_image, ihc_image = side_images(he, ihc, settings, tissue_settings)
    pair = prepare(he_image, ihc_image, settings)
    alignment = align(pair, settings)
    he_side, ihc_side = (Side(s.name, s.size, s.bounds, s.mpp, s.content_hash()) for s in (he, ihc))
    if alignment is None:
        return _hopeless(pair, he_side, ihc_side, settings)
    if alignment.proven(settings) and settings.local:
        alignment = deepen(he, ihc, pair, alignment, settings)
    return _judged(pair, alignment, he_side, ihc_side, settings)


def side_images(
    he: Slide, ihc: Slide, settings: RegistrationSettings, tissue_settings: TissueSettings
) -> tuple[SideImage, SideImage]:
    """Overviews of both slides, fine enough for the working resolution that their tissue asks for."""
    tissues = [require_tissue(s.path, find_tissue(s, tissue_settings)) for s in (he, ihc)]
    known = he.mpp is not None and ihc.mpp is not None
    coarse = [_side_image(s, t, known) for s, t in zip((he, ihc), tissues, strict=True)]
    wanted = [max(wanted_resolution(c, settings), settings.finest_mpp if known else 1.0) for c in coarse]
    if known:
        wanted = [min(wanted)] * 2
    fine = [_finer(s, c, w) for s, c, w in zip((he, ihc), coarse, wanted, strict=True)]
    return fine[0], fine[1]


def _side_image(slide: Slide, tissue: TissueMap, known: bool) -> SideImage:
    mpp = (slide.mpp.x, slide.mpp.y) if known and slide.mpp is not None else None
    return SideImage(tissue.overview, tissue.mask, tissue.px0_from_ov, mpp)


def _finer(slide: Slide, coarse: SideImage, unit: float) -> SideImage:
    """The same side with an overview of `unit` µm (px0) per px, where the one of the tissue mask is coarser."""
    if unit >= _FINER_FRACTION * max(coarse.unit_per_ov):
        return coarse
    if coarse.mpp is not None:
        overview = slide.overview(mpp=unit)
    else:
        overview = slide.overview(max_px=max(1, round(max(slide.bounds.width, slide.bounds.height) / unit)))
    mask = _mask_on(coarse, overview.px0_from_ov, overview.image.shape[:2])
    return SideImage(overview.image, mask, overview.px0_from_ov, coarse.mpp)


def _mask_on(coarse: SideImage, px0_from_ov: Affine2D, shape: tuple[int, ...]) -> Mask:
    coarse_from_ov = coarse.px0_from_ov.inverse() @ Affine2D("px0", "fine", px0_from_ov.matrix)
    height, width = coarse.mask.shape
    x = coarse_from_ov.apply(np.stack([np.arange(shape[1]) + 0.5, np.zeros(shape[1])], axis=1))[:, 0]
    y = coarse_from_ov.apply(np.stack([np.zeros(shape[0]), np.arange(shape[0]) + 0.5], axis=1))[:, 1]
    columns = np.clip(x.astype(np.intp), 0, width - 1)
    rows = np.clip(y.astype(np.intp), 0, height - 1)
    result: Mask = coarse.mask[np.ix_(rows, columns)]
    return result


def _judged(
    pair: WorkingPair, alignment: Alignment, he: Side, ihc: Side, settings: RegistrationSettings
) -> Registration:
    known = he.mpp is not None and ihc.mpp is not None
    transform = to_pair_transform(pair, alignment)
    evidence = _error_evidence(pair, alignment.precision, he, known, settings)
    median, p95 = _stated(pair, evidence) if alignment.proven(settings) else (None, None)
    median_um, p95_um = (median, p95) if known else (None, None)
    px0 = 1.0 if he.mpp is None or not known else 1.0 / float(np.sqrt(he.mpp.um2_per_px))
    median_px0, p95_px0 = (None if v is None else v * px0 for v in (median, p95))
    verdict = verdict_of(median_um, settings) if known else None
    flags = _flags(alignment, transform, he, ihc, settings)
    if verdict is Verdict.REJECT and median_um is not None:
        flags += ("large_error",)
    return Registration(
        transform=transform,
        verdict=_capped(verdict, flags),
        flags=flags,
        error_median_um=median_um,
        error_p95_um=p95_um,
        error_median_px0=median_px0,
        error_p95_px0=p95_px0,
        overlap_fraction=alignment.overlap_fraction,
        consensus_fraction=alignment.evidence.consensus,
        chance_log10=alignment.evidence.chance_log10,
        finest_mpp=alignment.finest_px * pair.unit_px if known else None,
        he=he,
        ihc=ihc,
        evidence=evidence,
    )


def _capped(verdict: Verdict | None, flags: tuple[str, ...]) -> Verdict | None:
    """What the flags leave of a verdict by error: a contradicted pixel size makes all µm doubtful."""
    if "same_slide" in flags and verdict is not None:
        return Verdict.REJECT
    return Verdict.REVIEW if verdict is Verdict.ACCEPT and "unusual_scale" in flags else verdict


def _stated(pair: WorkingPair, evidence: ErrorEvidence) -> tuple[float | None, float | None]:
    """(median, p95) of the pair in the unit of the evidence: over all of its tissue, recognised or not."""
    rows, columns = np.nonzero(pair.fixed.mask)
    some = np.linspace(0, len(rows) - 1, min(len(rows), _STATED_AT)).astype(np.intp)
    places = pair.fixed.px0_from_work.apply(np.stack([columns[some], rows[some]], axis=1) + 0.5)
    median, p95 = evidence.errors_at(places)
    if not np.isfinite(median).all():
        return None, None
    return float(np.median(median)), float(np.sqrt(np.mean(p95**2)))


def _error_evidence(
    pair: WorkingPair, evidence: Precision, he: Side, known: bool, settings: RegistrationSettings
) -> ErrorEvidence:
    unit = (he.mpp.x, he.mpp.y) if known and he.mpp is not None else (1.0, 1.0)
    centres = pair.fixed.px0_from_work.apply(evidence.centres)
    return ErrorEvidence(
        centres_px0=centres,
        distances=evidence.distances * pair.unit_px,
        height=evidence.height,
        trust=evidence.trust,
        recognised_sigma=evidence.recognised_sigma * pair.unit_px,
        spacing=evidence.spacing * pair.unit_px,
        growth=evidence.growth,
        unit_per_px0=unit,
        p95_margin_fraction=settings.p95_margin_fraction,
    )


def _flags(
    alignment: Alignment, transform: PairTransform, he: Side, ihc: Side, settings: RegistrationSettings
) -> tuple[str, ...]:
    flags = []
    if len(alignment.evidence) < settings.min_windows:
        flags.append("few_windows")
    elif not alignment.proven(settings):
        flags.append("no_consensus")
    if alignment.overlap_fraction < _WEAK_OVERLAP:
        flags.append("weak_overlap")
    if alignment.field is None and settings.local:
        flags.append("affine_only")
    if he.content_sha256 == ihc.content_sha256:
        flags.append("same_slide")
    if he.mpp is None or ihc.mpp is None:
        flags.append("no_mpp")
    elif not 1 / _UNUSUAL_SCALE < _tissue_scale(transform, he, ihc) < _UNUSUAL_SCALE:
        flags.append("unusual_scale")
    if transform.ihc_from_he.mirrored:
        flags.append("mirrored")
    if alignment.same_cells:
        flags.append("same_cells")
    return tuple(flags)


def _tissue_scale(transform: PairTransform, he: Side, ihc: Side) -> float:
    """µm on the IHC per µm on the H&E."""
    assert he.mpp is not None
    assert ihc.mpp is not None
    return float(np.sqrt(abs(transform.ihc_from_he.determinant) * ihc.mpp.um2_per_px / he.mpp.um2_per_px))


def _hopeless(pair: WorkingPair, he: Side, ihc: Side, settings: RegistrationSettings) -> Registration:
    """No start led anywhere: the middles on each other, so that there is a picture to look at; rejected."""
    fixed, moving = (np.argwhere(s.mask).mean(axis=0)[::-1] + 0.5 for s in (pair.fixed, pair.moving))
    matrix = np.eye(3)
    matrix[:2, 2] = moving - fixed
    return _judged(pair, Alignment(matrix, None, Evidence(0, 0.0, 0.0), no_precision(), 0.0), he, ihc, settings)
