"""`register_pair`: from two open slides to a judged registration."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from virtual_stain.config.registration import RegistrationSettings
from virtual_stain.config.tissue import TissueSettings
from virtual_stain.errors import ResolutionError
from virtual_stain.geometry import Affine2D
from virtual_stain.registration.align import Alignment, align
from virtual_stain.registration.deepen import deepen
from virtual_stain.registration.judge import judged
from virtual_stain.registration.landmarks import Landmarks
from virtual_stain.registration.manual import align_manually
from virtual_stain.registration.pale import tissue_of_both
from virtual_stain.registration.precision import no_precision
from virtual_stain.registration.quality import Evidence
from virtual_stain.registration.raster import Mask
from virtual_stain.registration.result import Registration, Side
from virtual_stain.registration.sections import Section, find_sections, only_section
from virtual_stain.registration.working import SideImage, WorkingPair, prepare, tissue_box, wanted_resolution
from virtual_stain.slides.resolution import REGISTRATION_RANGE, require_mpp
from virtual_stain.slides.slide import Slide
from virtual_stain.slides.tissue import TissueMap, doubts_of_nuclei, tissue_mask

_LEAST_DENSE = 0.5  # of the tissue: less would mean that the finer picture is too pale to tell
_MOST_UNLIKE = 6.0  # of the sides of two tissues' areas: more than several sections on one slide make
_FINER_FRACTION = 0.97  # an overview within 3 % of the wanted resolution serves as it is


def register_pair(
    he: Slide,
    ihc: Slide,
    settings: RegistrationSettings,
    tissue_settings: TissueSettings,
    landmarks: Landmarks | None = None,
    section: int | None = None,
) -> Registration:
    """Finds where each place of the H&E slide lies on the IHC slide, and how surely; `landmarks`: where to start.

    `section`: which of several candidate sections on the IHC slide to take, from 1; None: the one that held-out windows
    agree with best.

    Does not raise on a bad match: the verdict is then REJECT and the flags say why. Raises NoTissueError, SlideError,
    ResolutionError for an absurd pixel size or for two that contradict each other, and InputError for landmarks outside
    the scans or a section that is not there. With a pixel size missing on either side: errors in px, and no verdict
    (None) but REJECT.
    """
    if landmarks is not None:
        landmarks.require_on_scans(he.bounds, ihc.bounds)
    for slide in (he, ihc):
        if slide.mpp is not None:
            require_mpp(slide, REGISTRATION_RANGE)
    he_image, ihc_image = side_images(he, ihc, settings, tissue_settings)
    sections, masks = find_sections(he_image, ihc_image)
    if section is not None:
        ihc_image = only_section(ihc_image, masks, section, str(ihc.path))
        sections = tuple(dataclasses.replace(s, taken=s.number == section) for s in sections)
    if landmarks is not None:
        pair = prepare(he_image, ihc_image, settings)
        alignment: Alignment | None = align_manually(pair, landmarks, settings)
    elif sections and section is None:
        pair, alignment, sections = _best_section(he_image, ihc_image, sections, masks, settings)
    else:
        pair = prepare(he_image, ihc_image, settings)
        alignment = align(pair, settings)
    he_side, ihc_side = (
        Side(s.name, s.size, s.bounds, s.mpp, s.content_hash(), s.warnings + image.warnings + _of_nuclei(s, image))
        for s, image in ((he, he_image), (ihc, ihc_image))
    )
    if alignment is None:
        alignment = _hopeless(pair)
    elif alignment.shown_by_windows(settings) and settings.local:
        alignment = deepen(he, ihc, pair, alignment, settings)
    return dataclasses.replace(judged(pair, alignment, he_side, ihc_side, settings), sections=sections)


def _best_section(
    he: SideImage,
    ihc: SideImage,
    sections: tuple[Section, ...],
    masks: tuple[Mask, ...],
    settings: RegistrationSettings,
) -> tuple[WorkingPair, Alignment | None, tuple[Section, ...]]:
    """Every candidate is registered by itself. Of those that are proven the one most like the H&E is taken, else the
    one that unrelated slides would least likely match."""
    tried = []
    for mask in masks:
        pair = prepare(he, dataclasses.replace(ihc, mask=mask), settings)
        tried.append((pair, align(pair, settings)))
    evidence = [Evidence(0, 0.0, 0.0) if a is None else a.evidence for _, a in tried]

    def rank(i: int) -> tuple[bool, float, int]:
        alignment = tried[i][1]
        if alignment is not None and alignment.shown_by_windows(settings):
            return False, -evidence[i].correlation, i
        return True, evidence[i].chance_log10, i

    best = min(range(len(tried)), key=rank)
    told = tuple(
        dataclasses.replace(
            s, taken=i == best, chance_log10=e.chance_log10, consensus_fraction=e.consensus, correlation=e.correlation
        )
        for i, (s, e) in enumerate(zip(sections, evidence, strict=True))
    )
    return (*tried[best], told)


def side_images(
    he: Slide, ihc: Slide, settings: RegistrationSettings, tissue_settings: TissueSettings
) -> tuple[SideImage, SideImage]:
    """Overviews of both slides, fine enough for the working resolution that their tissue asks for."""
    tissues = tissue_of_both((he, ihc), tissue_settings)
    known = he.mpp is not None and ihc.mpp is not None
    coarse = [_side_image(s, t, known) for s, (t, _) in zip((he, ihc), tissues, strict=True)]
    if known:
        _require_like_sizes(he, ihc, coarse)
    wanted = [max(wanted_resolution(c, settings), settings.finest_mpp if known else 1.0) for c in coarse]
    if known:
        wanted = [min(wanted)] * 2
    used = [s for _, s in tissues]
    fine = [_finer(s, c, w, u) for s, c, w, u in zip((he, ihc), coarse, wanted, used, strict=True)]
    return fine[0], fine[1]


def _of_nuclei(slide: Slide, image: SideImage) -> tuple[str, ...]:
    return doubts_of_nuclei(slide, image.mask, image.px0_from_ov)


def _require_like_sizes(he: Slide, ihc: Slide, sides: Sequence[SideImage]) -> None:
    """Raises ResolutionError: at the finer side's resolution the other one would be a picture of gigapixels."""
    across = [math.sqrt(np.count_nonzero(s.mask) * math.prod(s.unit_per_ov)) / 1000 for s in sides]
    if max(across) <= _MOST_UNLIKE * min(across):
        return
    told = [f"{mm:.3g} mm on {s.path.name} at {s.mpp}" for mm, s in zip(across, (he, ihc), strict=True)]
    raise ResolutionError(
        f"{he.path}, {ihc.path}: expected tissue of about one size on both slides (square root of its area). "
        f"Received: {' and '.join(told)}.",
        hint="One pixel size is wrong: pass the true one by --mpp-he or --mpp-ihc (he_mpp, ihc_mpp in a table). Or the "
        "smaller tissue is too pale to be found: vstain info SLIDE --out DIR draws what was found.",
    )


def _side_image(slide: Slide, tissue: TissueMap, known: bool) -> SideImage:
    mpp = (slide.mpp.x, slide.mpp.y) if known and slide.mpp is not None else None
    return SideImage(tissue.overview, tissue.mask, tissue.px0_from_ov, mpp, tissue.warnings)


def _finer(slide: Slide, coarse: SideImage, unit: float, settings: TissueSettings) -> SideImage:
    """The same side with an overview of `unit` µm (px0) per px, where the one of the tissue mask is coarser.

    What is tissue, the coarse mask says; lumens in it, the finer picture shows as well. They are sought as if it had
    the usual pixel size of masks, so that the same tissue has the same mask whatever is known of pixel sizes.
    """
    if unit >= _FINER_FRACTION * max(coarse.unit_per_ov):
        return coarse
    if coarse.mpp is not None:
        overview = slide.overview(mpp=unit)
    else:
        overview = slide.overview(max_px=max(1, round(max(slide.bounds.width, slide.bounds.height) / unit)))
    mask = _mask_on(coarse, overview.px0_from_ov, overview.image.shape[:2])
    # around the tissue only: a biopsy on a large slide has an overview of many pixels, nearly all of them glass
    x0, y0, x1, y1 = tissue_box(mask)
    dense = mask.copy()
    dense[y0:y1, x0:x1] &= tissue_mask(overview.image[y0:y1, x0:x1], settings.overview_mpp, settings)
    if np.count_nonzero(dense) >= _LEAST_DENSE * np.count_nonzero(mask):
        mask = dense
    return SideImage(overview.image, mask, overview.px0_from_ov, coarse.mpp, coarse.warnings)


def _mask_on(coarse: SideImage, px0_from_ov: Affine2D, shape: tuple[int, ...]) -> Mask:
    coarse_from_ov = coarse.px0_from_ov.inverse() @ Affine2D("px0", "fine", px0_from_ov.matrix)
    height, width = coarse.mask.shape
    x = coarse_from_ov.apply(np.stack([np.arange(shape[1]) + 0.5, np.zeros(shape[1])], axis=1))[:, 0]
    y = coarse_from_ov.apply(np.stack([np.zeros(shape[0]), np.arange(shape[0]) + 0.5], axis=1))[:, 1]
    columns = np.clip(x.astype(np.intp), 0, width - 1)
    rows = np.clip(y.astype(np.intp), 0, height - 1)
    result: Mask = coarse.mask[np.ix_(rows, columns)]
    return result


def _hopeless(pair: WorkingPair) -> Alignment:
    """No start led anywhere: the middles on each other, so that there is a picture to look at; rejected."""
    fixed, moving = (np.argwhere(s.mask).mean(axis=0)[::-1] + 0.5 for s in (pair.fixed, pair.moving))
    matrix = np.eye(3)
    matrix[:2, 2] = moving - fixed
    return Alignment(matrix, None, Evidence(0, 0.0, 0.0), no_precision(), 0.0)
