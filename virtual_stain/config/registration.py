"""[registration]: how a pair is aligned and when it is trusted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from virtual_stain.config.check import Range, check_ranges, require_range


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistrationSettings:
    """Verdict by the estimated median error; a tile is dropped by its own p95."""

    accept_median_um: Annotated[float, Range(0.1, 1000)] = 30.0
    """Estimated median error up to which a pair is accepted, µm."""
    review_median_um: float = 60.0
    """… up to which its tiles need a person's verdict, µm; above, the pair is rejected."""
    tile_p95_um: Annotated[float, Range(0.1, 1000)] = 60.0
    """A tile whose own estimated p95 error exceeds this is dropped, µm."""
    work_px: Annotated[int, Range(100, 4000)] = 800
    """Square root of the tissue area at working resolution, px: cost and accuracy both grow with it."""
    finest_mpp: Annotated[float, Range(0.05, 100)] = 1.5
    """Working resolution is never finer than this, µm/px."""
    local: bool = True
    """Refine the affine by a smooth local displacement."""
    smoothness: Annotated[float, Range(1e-3, 1e6)] = 6.0
    """Weight of the displacement's bending energy against its windows; larger is stiffer."""
    max_slope_fraction: Annotated[float, Range(0.01, 0.8)] = 0.4
    """Largest change of the displacement per length; below 1 nothing folds and the inverse converges."""
    detail_mpp: Annotated[float, Range(0.05, 100)] = 4.0
    """Serial sections are compared down to this pixel size, µm/px; finer they have nothing in common."""
    restain_mpp: Annotated[float, Range(0.05, 100)] = 1.0
    """The same section stained twice is compared down to this pixel size, µm/px."""
    detail_windows: Annotated[int, Range(0, 10_000)] = 600
    """Windows that are read from the slides at each level finer than the working one; 0: none."""
    coarse_px: Annotated[int, Range(40, 400)] = 110
    """Square root of the tissue area, px, at which all rotations are tried."""
    angle_step_deg: Annotated[float, Range(1, 30)] = 8.0
    """Step of the rotations that are tried, degrees."""
    starts: Annotated[int, Range(1, 100)] = 12
    """Distinct starts that are refined."""
    unknown_scale_range: tuple[float, ...] = (0.5, 2.0)
    """Without pixel sizes: scales that are tried, relative to equal tissue areas on both sides."""
    max_chance_log10: Annotated[float, Range(-100, -2)] = -5.0
    """log10 of the largest acceptable probability that unrelated slides agree as well as these do."""
    max_manual_chance_log10: Annotated[float, Range(-100, -2)] = -4.0
    """The same where a person's landmarks say where to start: one place was tried, not hundreds."""
    min_windows: Annotated[int, Range(4, 10_000)] = 8
    """Fewer held-out windows than this prove nothing."""
    p95_margin_fraction: Annotated[float, Range(1, 10)] = 1.6
    """The stated p95 is the estimated one times this (calibrated on truth: docs/registration.md)."""

    def __post_init__(self) -> None:
        check_ranges(self)
        require_range("review_median_um", self.review_median_um, self.accept_median_um, 1000)
        if len(self.unknown_scale_range) != 2:
            raise ValueError(f"unknown_scale_range: expected two scales. Received: {self.unknown_scale_range}")
        require_range("unknown_scale_range[0]", self.unknown_scale_range[0], 0.1, 1)
        require_range("unknown_scale_range[1]", self.unknown_scale_range[1], 1, 10)
