"""What registering a pair yields: the transform, how far it is trusted, and the evidence for that."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from virtual_stain.config.registration import RegistrationSettings
from virtual_stain.errors import RejectedError
from virtual_stain.geometry import Box, Points, Size
from virtual_stain.registration.bare import BareTissue
from virtual_stain.registration.sections import Section
from virtual_stain.registration.transform import PairTransform
from virtual_stain.slides.resolution import Mpp

FLAGS = {
    "no_consensus": "held-out windows agree no better than those of unrelated slides: rejected",
    "few_windows": "too little common tissue to tell: rejected",
    "large_error": "the right place, but not well enough, or at too coarse a pixel size: rejected",
    "same_slide": "both files have the same content: rejected",
    "unusual_scale": "the tissue's scale contradicts the pixel sizes by more than a quarter: at most review",
    "manual": "started from a person's landmarks, confirmed by windows",
    "manual_only": "from a person's landmarks alone: no error is stated, tiles are dropped; at most review, and only "
    "with six of them or more",
    "landmarks_contradicted": "windows prove another place than the landmarks: rejected",
    "lost_regions": "part of the tissue lies elsewhere (torn and turned?): its tiles are dropped, at most review",
    "bare_regions": "part of the H&E tissue has no IHC tissue under it (missing, or moved elsewhere?): "
    "no error is stated there, its tiles are dropped",
    "weak_overlap": "less than half of the tissue is common",
    "no_mpp": "a pixel size is missing: errors in px, no verdict, not usable for records",
    "affine_only": "no local displacement",
    "mirrored": "one section lies upside down (for your information)",
    "same_cells": "the same section stained twice: compared down to single nuclei (for your information)",
}
"""Every flag and what it means."""

Vector = npt.NDArray[np.float64]  # float64[N]

RAYLEIGH_MEDIAN = 1.1774
RAYLEIGH_P95 = 2.4477
_NEIGHBOURS = 1.0  # reach of local evidence, in spacings between evidence windows
_PRIOR_WINDOWS = 4.0  # the pair's overall error counts as much as this many windows at the place itself
_REACH = 0.75  # spacings: no place between recognised windows is further from the nearest
_LEAST_SHARE = 0.05
_CHANCE_SHARE = 0.05  # of windows on a lost place that seem to be recognised
_LOG_ODDS_LOST = -4.0  # one place in fifty is lost, before anything is seen


class Verdict(enum.StrEnum):
    """What may be done with a pair, by its estimated median error."""

    ACCEPT = "accept"
    REVIEW = "review"
    REJECT = "reject"


@dataclass(frozen=True, slots=True, eq=False)
class ErrorEvidence:
    """Held-out windows; lengths in the unit of the pair: µm, or H&E level-0 px where no pixel size is known."""

    centres_px0: Points
    """float64[N, 2]: H&E level-0 px."""
    distances: Vector
    """float64[N]: disagreement of prediction and finding."""
    usual: Vector
    """float64[N]: σ of one coordinate of that disagreement, as it is for such a window on an average place."""
    height: Vector
    """float64[N]: correlation where the window was found."""
    trust: Vector
    """float64[N]: probability that it was recognised, 0–1."""
    error_sigma: float
    """σ of one coordinate of the error among recognised windows; NaN when there is no evidence."""
    spacing: float
    """Between neighbouring windows."""
    growth: float
    """σ per length of distance from the nearest recognised window."""
    unit_per_px0: tuple[float, float]
    """H&E µm per level-0 px along x and y (1, 1 without pixel size)."""
    p95_margin_fraction: float
    """Factor on the stated p95."""
    bare: BareTissue
    """Where no IHC tissue lies under the H&E's."""
    apart: Vector
    """float64[N]: how far the map of another method lies from this one around the window (root mean square)."""
    pixel_sigma: float
    """σ of one coordinate of what the slides' own pixels leave open, ≥ 0."""

    @property
    def typical_p95(self) -> float:
        """The p95 of a place among the pair's windows, by the windows alone; NaN without evidence.

        The margin beside which tissue counts as bare: a larger one would let more places keep a stated error.
        """
        return RAYLEIGH_P95 * self.p95_margin_fraction * self.error_sigma

    def errors_at(self, he_points: npt.ArrayLike) -> tuple[Vector, Vector]:
        """Estimated (median, p95) of the error at float64[N, 2] H&E level-0 px; infinite where nothing is known,
        and where no IHC tissue lies.

        From the windows around a place, the pair's own where there are few. Where fewer of them are recognised than is
        usual on this pair (a torn and turned fragment) the p95 is larger; away from any both grow. To this come what
        two methods disagree about at the place, and what the slides' own pixels leave open.
        """
        gaps = self._gaps(he_points)
        recognised = self.trust > 0.5
        if not recognised.any() or not np.isfinite(self.error_sigma):
            return np.full(len(gaps), np.inf), np.full(len(gaps), np.inf)
        near = np.exp(-0.5 * (gaps / (_NEIGHBOURS * self.spacing)) ** 2)
        trusted = near * self.trust[None]
        worse_than_usual = (self.distances / self.usual) ** 2 / 2
        total = (trusted @ worse_than_usual + _PRIOR_WINDOWS) / (trusted.sum(axis=1) + _PRIOR_WINDOWS)
        local = self.error_sigma * np.sqrt(total)
        overall = float(self.trust.mean())
        share = (trusted.sum(axis=1) + _PRIOR_WINDOWS * overall) / (near.sum(axis=1) + _PRIOR_WINDOWS)
        away = self.growth * np.maximum(gaps[:, recognised].min(axis=1) - _REACH * self.spacing, 0.0)
        # how many are recognised on the whole says what there is to be seen, and not how well it was seen
        fewer = np.clip(share / overall, _LEAST_SHARE, 1.0)
        worse = local / np.sqrt(fewer)
        beyond = self.pixel_sigma**2 + self._apart2(gaps) / 2
        median = RAYLEIGH_MEDIAN * np.sqrt(local**2 + away**2 + beyond)
        p95 = RAYLEIGH_P95 * self.p95_margin_fraction * np.sqrt(worse**2 + away**2 + beyond)
        unknown = self._lost(gaps) | self.bare.at(he_points)
        return np.where(unknown, np.inf, median), np.where(unknown, np.inf, p95)

    def lost_at(self, he_points: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """bool[N]: whether windows say that the tissue at float64[N, 2] H&E level-0 px lies elsewhere."""
        gaps = self._gaps(he_points)
        return self._lost(gaps) if (self.trust > 0.5).any() else np.zeros(len(gaps), np.bool_)

    def confirms(self, pieces: npt.NDArray[np.intp], most: int) -> npt.NDArray[np.bool_]:
        """bool[most + 1]: which pieces of tissue their own windows show to lie where the rest says. `pieces`: intp[N],
        the one that each window lies on, 0 to `most`; 0 is no piece.

        Bare ground lies around a piece, and tissue was moved or lost there: neither is more likely beforehand. One
        window that is recognised may be chance. So a piece has to be in its place as surely as a place has to be lost
        before it is called so. The piece with most recognised windows is what the pair's proof is about.
        """
        _, told = self._told()
        result: npt.NDArray[np.bool_] = np.bincount(pieces, told, most + 1) < _LOG_ODDS_LOST
        result[np.bincount(pieces, self.trust > 0.5, most + 1).argmax()] = True
        return result

    def _gaps(self, he_points: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """float64[N, windows]: how far each window is from each place."""
        points = np.asarray(he_points, np.float64).reshape(-1, 2) * self.unit_per_px0
        result: npt.NDArray[np.float64] = np.linalg.norm(
            points[:, None] - (self.centres_px0 * self.unit_per_px0)[None], axis=2
        )
        return result

    def _apart2(self, gaps: npt.NDArray[np.float64]) -> Vector:
        """float64[N]: mean square of `apart` around each place; that of the nearest windows away from all.

        On lost tissue both methods go astray, each in its way. That says nothing of the tissue beside it.
        """
        lost = self.lost_at(self.centres_px0)
        told = ~lost if not lost.all() else lost
        exponent = -0.5 * (gaps[:, told] / (_NEIGHBOURS * self.spacing)) ** 2
        near = np.exp(exponent - exponent.max(axis=1, keepdims=True))
        result: Vector = (near @ self.apart[told] ** 2) / near.sum(axis=1)
        return result

    def _lost(self, gaps: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
        """bool[N]: places whose windows are so much less recognised than is usual that the tissue there most likely
        lies elsewhere. `gaps`: float64[N, windows], how far each window is from each place.

        By Bayes, from the odds of a place being lost and the share of windows that chance recognises there. A place
        beside a lost window is lost with it: the tear may run anywhere between that and the next recognised one.
        """
        recognised = self.trust > 0.5
        around, told = self._told()
        near = np.exp(-0.5 * (gaps / (_NEIGHBOURS * self.spacing)) ** 2)
        lost_windows = ~recognised & (around @ told > -_LOG_ODDS_LOST)
        beside = (gaps[:, lost_windows] < self.spacing).any(axis=1)
        result: npt.NDArray[np.bool_] = beside | (near @ told > -_LOG_ODDS_LOST)
        return result

    def _told(self) -> tuple[npt.NDArray[np.float64], Vector]:
        """float64[windows, windows], how near they are to each other; float64[windows], what each adds to the logarithm
        of the odds that the tissue there lies elsewhere.

        `nearer` is how much denser the distances of recognised windows lie at a window's distance than evenly spread
        ones: `trust` is the posterior of just that, with the pair's share as prior.
        """
        recognised = self.trust > 0.5
        between = np.linalg.norm((self.centres_px0[:, None] - self.centres_px0[None]) * self.unit_per_px0, axis=2)
        around = np.exp(-0.5 * (between / (_NEIGHBOURS * self.spacing)) ** 2)
        shares = (around @ recognised) / around.sum(axis=1)
        # what is usual, the windows on tissue that is not lost tell
        usual = float(np.clip(np.median(shares[recognised]), 2 * _CHANCE_SHARE, 1 - _CHANCE_SHARE))
        seen, unseen = np.log(_CHANCE_SHARE / usual), np.log((1 - _CHANCE_SHARE) / (1 - usual))
        # a window just too far off to be recognised is as likely in its place: on lost tissue distances spread evenly
        overall = float(np.clip(self.trust.mean(), _CHANCE_SHARE, 1 - _CHANCE_SHARE))
        doubted = np.minimum(self.trust, 0.5)
        nearer = doubted / (1 - doubted) * (1 - overall) / overall
        return around, np.where(recognised, seen, np.minimum(unseen, -np.log(usual * nearer + 1 - usual)))


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """One slide of the pair."""

    name: str
    size: Size
    bounds: Box
    """The scanned part, level-0 px."""
    mpp: Mpp | None
    content_sha256: str
    warnings: tuple[str, ...] = ()
    """What is odd about the file, its pixel size or its tissue."""


@dataclass(frozen=True, slots=True, eq=False)
class Registration:
    """A registered pair; `verdict` None: no pixel size, so errors are in px and records may not be built."""

    transform: PairTransform
    verdict: Verdict | None
    flags: tuple[str, ...]
    error_median_um: float | None
    error_p95_um: float | None
    error_median_px0: float | None
    """In H&E level-0 px; kept where no pixel size is known."""
    error_p95_px0: float | None
    overlap_fraction: float
    """Dice of the two tissue masks after registration."""
    bare_fraction: float
    """Share of the H&E tissue that has no IHC tissue under it."""
    consensus_fraction: float
    """Share of held-out windows that were recognised where predicted."""
    chance_log10: float
    """log10 of the probability of such agreement between unrelated slides."""
    finest_mpp: float | None
    """Pixel size of the finest images that had a part in it, µm/px; None without pixel sizes."""
    he: Side
    ihc: Side
    evidence: ErrorEvidence
    landmark_residual_px0: float | None = None
    """Of landmarks alone: root mean square of what one affine map leaves of them, H&E level-0 px. No error of the
    registration: landmarks that are all wrong can fit well."""
    sections: tuple[Section, ...] = ()
    """Candidate sections on the IHC slide, where it carries more than one."""

    @property
    def he_mpp(self) -> Mpp | None:
        return self.he.mpp

    @property
    def ihc_mpp(self) -> Mpp | None:
        return self.ihc.mpp

    @property
    def rejected(self) -> bool:
        """Whether nothing may be done with it; older files have no verdict where pixel sizes were missing."""
        unproven = self.error_median_px0 is None and self.landmark_residual_px0 is None
        return self.verdict is Verdict.REJECT or (self.verdict is None and unproven)

    @property
    def usable(self) -> bool:
        """Whether tiles may be built from it at all."""
        return self.verdict in (Verdict.ACCEPT, Verdict.REVIEW)

    def raise_if_rejected(self) -> None:
        """Raises RejectedError, with the reason, when the verdict is REJECT."""
        if self.rejected:
            hint = "Look at overlay.jpg: are the slides of one block, and are the pixel sizes right?"
            if "landmarks_contradicted" in self.flags:
                hint = "Register without --landmarks. Are they of these slides, in level-0 px, and no columns swapped?"
            raise RejectedError(
                f"{self.he.name} / {self.ihc.name}: the registration is rejected: {self.reason()}", hint=hint
            )

    def reason(self) -> str:
        """The verdict in words."""
        if "same_slide" in self.flags:
            return "both files are the same slide."
        if "landmarks_contradicted" in self.flags:
            return "windows prove another place than the landmarks say."
        if self.landmark_residual_px0 is not None:
            return self._of_landmarks_alone(self.landmark_residual_px0)
        if "few_windows" in self.flags:
            return "too little tissue in common to tell whether it is right."
        if "no_consensus" in self.flags:
            return "held-out windows agree no better than those of unrelated slides do."
        if "lost_regions" in self.flags and self.error_median_px0 is None:
            return "most of the tissue lies elsewhere than the rest of it says."
        if self.error_median_um is None:
            return "no pixel size, so the error is in pixels and records cannot be built."
        doubt = ", but the scale contradicts the pixel sizes" if "unusual_scale" in self.flags else ""
        doubt += ", without the parts that lie elsewhere" if "lost_regions" in self.flags else ""
        if "bare_regions" in self.flags:
            doubt += f", without the {self.bare_fraction:.0%} of the H&E tissue that has no IHC tissue under it"
        return f"estimated error {self.error_median_um:.1f} µm (median), {self.error_p95_um:.1f} µm (p95){doubt}."

    def _of_landmarks_alone(self, residual_px0: float) -> str:
        told = "by landmarks alone, which nothing else confirms: no error is known, tiles are dropped"
        if self.he.mpp is None or self.ihc.mpp is None:
            return f"{told}; without pixel sizes nothing tells whether they fit well enough."
        left = residual_px0 * float(np.sqrt(self.he.mpp.um2_per_px))
        return f"{told} (fit residual of one affine map {left:.1f} µm)."

    def section_taken(self) -> str | None:
        """Which of several candidate sections was taken, and how much better it is than the next; None where the IHC
        slide carries one."""
        taken = next((s for s in self.sections if s.taken), None)
        if taken is None:
            return f"{len(self.sections)} candidates, none chosen: landmarks say where" if self.sections else None
        told = f"{taken.number} of {len(self.sections)} on the IHC slide"
        others = [s for s in self.sections if not s.taken and s.correlation is not None]
        if taken.correlation is None or not others:
            return f"{told}, as asked for"
        following = max(others, key=lambda s: s.correlation or 0.0)
        return f"{told}: {_likeness(taken)}; the next is {following.number}: {_likeness(following)}"

    def bare_at(self, he_points: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """bool[N]: whether the H&E tissue at float64[N, 2] H&E level-0 px has no IHC tissue under it."""
        return self.evidence.bare.at(he_points)

    def error_at_um(self, he_points: npt.ArrayLike) -> tuple[Vector, Vector]:
        """Estimated (median, p95) error in µm at float64[N, 2] H&E level-0 px; infinite where nothing is known.

        Raises ValueError for a pair without pixel sizes: its errors are in px.
        """
        if self.error_median_um is None and self.he.mpp is None:
            raise ValueError("Expected a pair with pixel sizes. Received: one whose errors are in px")
        return self.evidence.errors_at(he_points)


def _likeness(section: Section) -> str:
    return f"correlation {section.correlation:.2f}, {section.consensus_fraction:.0%} of its windows recognised"


def summary(registration: Registration) -> str:
    """A few lines for the terminal."""
    matrix = registration.transform.ihc_from_he
    verdict = "none" if registration.verdict is None else registration.verdict.value
    lines = [
        f"verdict: {verdict} – {registration.reason()}",
        f"rotation {matrix.rotation_deg:.1f}°{', mirrored' if matrix.mirrored else ''}, "
        f"scales {matrix.scales[0]:.4f} {matrix.scales[1]:.4f}, tissue overlap {registration.overlap_fraction:.2f}, "
        f"windows recognised {registration.consensus_fraction:.0%}",
    ]
    for side, label in ((registration.he, "H&E"), (registration.ihc, "IHC")):
        lines.append(f"{label}: {side.size.width} × {side.size.height} px, {side.mpp or 'no pixel size'}")
    if registration.error_median_um is None and registration.error_median_px0 is not None:
        lines.append(
            f"error: {registration.error_median_px0:.1f} px (median), {registration.error_p95_px0:.1f} px (p95), H&E"
        )
    if (told := registration.section_taken()) is not None:
        lines.append(f"section {told}; --section N takes another")
    if registration.bare_fraction > 0:
        lines.append(f"H&E tissue without IHC tissue under it: {registration.bare_fraction:.0%}")
    if registration.flags:
        lines.append(f"flags: {', '.join(registration.flags)}")
    return "\n".join(lines)


def verdict_of(median_um: float | None, settings: RegistrationSettings) -> Verdict:
    """The verdict that an estimated median error earns (None: nothing could be estimated)."""
    if median_um is None or not np.isfinite(median_um) or median_um > settings.review_median_um:
        return Verdict.REJECT
    return Verdict.ACCEPT if median_um <= settings.accept_median_um else Verdict.REVIEW
