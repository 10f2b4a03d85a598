"""From an alignment to what is told of it: stated error, verdict, flags."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from virtual_stain.config.registration import RegistrationSettings
from virtual_stain.registration.align import Alignment, Start, to_pair_transform
from virtual_stain.registration.bare import BareTissue, find_bare, nothing_bare, pieces, with_pieces
from virtual_stain.registration.raster import blur, sampled
from virtual_stain.registration.refine import MEASURES
from virtual_stain.registration.result import ErrorEvidence, Registration, Side, Vector, Verdict, verdict_of
from virtual_stain.registration.transform import PairTransform
from virtual_stain.registration.warping import dense_displacement
from virtual_stain.registration.working import WorkingPair

_WEAK_OVERLAP = 0.5
_UNUSUAL_SCALE = 1.25
_LOST_SHARE = 0.05  # of the tissue, from which on a person has to look
_BARE_SHARE = 0.05  # of the tissue, from which on it is told
_OUTLINE_PX = 16.0  # working px: by how much outlines may differ where nothing is known in µm
_PLACED_PX = 1.5  # σ with which a person finds a place of one serial section again on its picture, level-0 px
_STATED_AT = 1000  # places of the tissue at which the error is asked for


def judged(
    pair: WorkingPair, alignment: Alignment, he: Side, ihc: Side, settings: RegistrationSettings
) -> Registration:
    """The registration with everything that follows from its evidence."""
    known = he.mpp is not None and ihc.mpp is not None
    transform = to_pair_transform(pair, alignment)
    evidence = _error_evidence(pair, alignment, (he, ihc), settings)
    stated = _Stated()
    if alignment.shown_by_windows(settings):
        evidence = _without_moved_pieces(
            pair, dataclasses.replace(evidence, bare=_bare(pair, alignment, evidence, known, settings))
        )
        stated = _stated(pair, evidence)
    median, p95 = stated.median, stated.p95
    median_um, p95_um = (median, p95) if known else (None, None)
    px0 = 1.0 if he.mpp is None or not known else 1.0 / float(np.sqrt(he.mpp.um2_per_px))
    median_px0, p95_px0 = (None if v is None else v * px0 for v in (median, p95))
    residual = None if alignment.residual_px is None else alignment.residual_px * pair.unit_px
    verdict = _verdict(median, residual, known, settings)
    flags = _flags(alignment, transform, he, ihc, settings)
    if stated.lost_fraction > _LOST_SHARE:
        flags += ("lost_regions",)
    if stated.bare_fraction > _BARE_SHARE:
        flags += ("bare_regions",)
    if verdict is Verdict.REJECT and known and (median is not None or residual is not None):
        flags += ("large_error",)
    return Registration(
        transform=transform,
        verdict=_capped(verdict, flags),
        flags=flags,
        error_median_um=median_um,
        error_p95_um=p95_um,
        error_median_px0=median_px0,
        error_p95_px0=p95_px0,
        landmark_residual_px0=None if residual is None else residual * px0,
        overlap_fraction=alignment.overlap_fraction,
        bare_fraction=stated.bare_fraction,
        consensus_fraction=alignment.evidence.consensus,
        chance_log10=alignment.evidence.chance_log10,
        finest_mpp=alignment.finest_px * pair.unit_px if known else None,
        he=he,
        ihc=ihc,
        evidence=evidence,
    )


def _verdict(
    median: float | None, residual: float | None, known: bool, settings: RegistrationSettings
) -> Verdict | None:
    """By the stated error, or by what is left between landmarks that nothing else confirms; both in µm where `known`.

    What nothing proves is rejected whatever is known of pixel sizes; only a proven pair without them has no verdict.
    """
    if known:
        return verdict_of(median if median is not None else residual, settings)
    return None if median is not None else Verdict.REJECT


def _capped(verdict: Verdict | None, flags: tuple[str, ...]) -> Verdict | None:
    """What the flags leave of a verdict by error: a contradicted pixel size makes all µm doubtful."""
    if not {"same_slide", "landmarks_contradicted"}.isdisjoint(flags):
        return Verdict.REJECT
    doubtful = not {"unusual_scale", "manual_only", "lost_regions"}.isdisjoint(flags)
    return Verdict.REVIEW if verdict is Verdict.ACCEPT and doubtful else verdict


@dataclass(frozen=True, slots=True)
class _Stated:
    """What is stated of the pair as a whole, in the unit of the evidence; None: nothing."""

    median: float | None = None
    p95: float | None = None
    lost_fraction: float = 0.0
    """Of the H&E tissue: what lies elsewhere, as windows say."""
    bare_fraction: float = 0.0
    """… and what has no IHC tissue under it."""


def _bare(
    pair: WorkingPair, alignment: Alignment, evidence: ErrorEvidence, known: bool, settings: RegistrationSettings
) -> BareTissue:
    # a place further from all IHC tissue than a tile may be off has either nothing to learn from or a worse error
    outline_px = settings.tile_p95_um / pair.unit_px if known else _OUTLINE_PX
    error_px = evidence.typical_p95 / pair.unit_px
    if not np.isfinite(error_px):
        return nothing_bare()
    sides = pair.fixed, pair.moving
    return find_bare(*sides, alignment.matrix, alignment.field, error_px=error_px, outline_px=outline_px)


def _without_moved_pieces(pair: WorkingPair, evidence: ErrorEvidence) -> ErrorEvidence:
    """The same, with pieces that bare ground cuts off and that nothing confirms counted as bare: what lies under them
    may have been moved there. A window on one was recognised by chance, and tells nothing of its neighbours."""
    piece = pieces(pair.fixed, evidence.bare)
    of_window = evidence.bare.values_at(piece, evidence.centres_px0)
    moved = ~evidence.confirms(of_window, int(piece.max(initial=0)))
    moved[0] = False
    bare = with_pieces(evidence.bare, pair.fixed, moved[piece])
    return dataclasses.replace(evidence, bare=bare, trust=np.where(moved[of_window], 0.0, evidence.trust))


def _stated(pair: WorkingPair, evidence: ErrorEvidence) -> _Stated:
    """Over all tissue that has some under it and is not lost."""
    rows, columns = np.nonzero(pair.fixed.mask)
    some = np.linspace(0, len(rows) - 1, min(len(rows), _STATED_AT)).astype(np.intp)
    places = pair.fixed.px0_from_work.apply(np.stack([columns[some], rows[some]], axis=1) + 0.5)
    bare = evidence.bare.at(places)
    # a place may be both: what was torn off and moved by less than its size
    bare_fraction, lost_fraction = float(bare.mean()), float(evidence.lost_at(places).mean())
    median, p95 = (v[~bare] for v in evidence.errors_at(places))
    known = np.isfinite(median)
    # lost tissue counts in the median: where most of what has some under it is lost, so is the pair
    middle = float(np.median(median)) if len(median) else np.inf
    if not np.isfinite(middle):
        return _Stated(None, None, 1.0, bare_fraction)
    return _Stated(middle, _joint_p95(p95[known]), lost_fraction, bare_fraction)


def _joint_p95(p95: Vector) -> float:
    """What 95 of 100 errors stay below, where each place has Rayleigh errors with a p95 of its own."""
    tried = np.geomspace(p95.min(), p95.max() * 1.0001, 200)
    above = np.exp(-np.log(20.0) * (tried[:, None] / p95[None]) ** 2).mean(axis=1)
    return float(tried[np.argmax(above <= 0.05)])


def _error_evidence(
    pair: WorkingPair, alignment: Alignment, sides: tuple[Side, Side], settings: RegistrationSettings
) -> ErrorEvidence:
    evidence = alignment.precision
    he, ihc = sides
    known = he.mpp is not None and ihc.mpp is not None
    unit = (he.mpp.x, he.mpp.y) if known and he.mpp is not None else (1.0, 1.0)
    centres = pair.fixed.px0_from_work.apply(evidence.centres)
    return ErrorEvidence(
        centres_px0=centres,
        distances=evidence.distances * pair.unit_px,
        usual=evidence.usual * pair.unit_px,
        height=evidence.height,
        trust=evidence.trust,
        error_sigma=evidence.error_sigma * pair.unit_px,
        spacing=evidence.spacing * pair.unit_px,
        growth=evidence.growth,
        unit_per_px0=unit,
        p95_margin_fraction=settings.p95_margin_fraction,
        bare=nothing_bare(),
        apart=_apart(pair, alignment) * pair.unit_px,
        pixel_sigma=0.0 if alignment.same_cells else _pixel_sigma(pair, alignment, sides),
    )


def _apart(pair: WorkingPair, alignment: Alignment) -> Vector:
    """float64[N]: how far the two methods' maps lie from each other around each window, working px.

    Where sections share every nucleus, windows of fine levels know better than flow of a coarse one: 0.
    """
    centres = alignment.precision.centres
    if alignment.second is None or alignment.same_cells or not len(centres):
        return np.zeros(len(centres))
    first, second = (dense_displacement(pair.fixed.shape, f) for f in (alignment.field, alignment.second))
    inside = pair.fixed.mask.astype(np.float32)
    apart2 = ((first - second) ** 2).sum(axis=2) * inside
    reach = MEASURES.window / MEASURES.factor / 2
    smooth = blur(apart2, reach) / np.maximum(blur(inside, reach), np.float32(1e-3))
    at = centres.astype(np.float32)[:, None]
    result: Vector = np.sqrt(np.maximum(sampled(smooth, at)[:, 0], 0.0)).astype(np.float64)
    return result


def _pixel_sigma(pair: WorkingPair, alignment: Alignment, sides: tuple[Side, Side]) -> float:
    """σ of one coordinate of what the pixels of both slides leave open where sections share no nuclei; in the unit of
    the pair."""
    he, ihc = sides
    if he.mpp is not None and ihc.mpp is not None:
        area = he.mpp.um2_per_px + ihc.mpp.um2_per_px
    else:  # in H&E level-0 px: how large a pixel of the IHC is, the registration says
        area = 1.0 + 1.0 / abs(to_pair_transform(pair, alignment).ihc_from_he.determinant)
    return _PLACED_PX * float(np.sqrt(area))


def _flags(
    alignment: Alignment, transform: PairTransform, he: Side, ihc: Side, settings: RegistrationSettings
) -> tuple[str, ...]:
    flags = []
    if alignment.start is not Start.FOUND:
        flags.append("manual" if alignment.shown_by_windows(settings) else "manual_only")
    if alignment.start is Start.CONTRADICTED:
        flags.append("landmarks_contradicted")
    elif not alignment.shown_by_windows(settings) and alignment.residual_px is None:
        flags.append("few_windows" if len(alignment.evidence) < settings.min_windows else "no_consensus")
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
