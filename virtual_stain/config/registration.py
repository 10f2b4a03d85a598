"""[registration]: how a pair is aligned and when it is trusted."""

from __future__ import annotations

from dataclasses import dataclass

from virtual_stain.config.check import require_range


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistrationSettings:
    """Verdict by the estimated median error; a tile is dropped by its own p95."""

    accept_median_um: float = 30.0
    """Estimated median error up to which a pair is accepted, µm."""
    review_median_um: float = 60.0
    """… up to which its tiles need a person's verdict, µm; above, the pair is rejected."""
    tile_p95_um: float = 60.0
    """A tile whose own estimated p95 error exceeds this is dropped, µm."""
    work_px: int = 800
    """Square root of the tissue area at working resolution, px: cost and accuracy both grow with it."""
    finest_mpp: float = 1.5
    """Working resolution is never finer than this, µm/px."""
    local: bool = True
    """Refine the affine by a smooth local displacement."""
    smoothness: float = 6.0
    """Weight of the displacement's bending energy against its windows; larger is stiffer."""
    max_slope_fraction: float = 0.4
    """Largest change of the displacement per length; below 1 nothing folds and the inverse converges."""
    detail_mpp: float = 4.0
    """Serial sections are compared down to this pixel size, µm/px; finer they have nothing in common."""
    restain_mpp: float = 1.0
    """The same section stained twice is compared down to this pixel size, µm/px."""
    detail_windows: int = 600
    """Windows that are read from the slides at each level finer than the working one; 0: none."""
    coarse_px: int = 110
    """Square root of the tissue area, px, at which all rotations are tried."""
    angle_step_deg: float = 8.0
    """Step of the rotations that are tried, degrees."""
    starts: int = 12
    """Distinct starts that are refined."""
    unknown_scale_range: tuple[float, ...] = (0.5, 2.0)
    """Without pixel sizes: scales that are tried, relative to equal tissue areas on both sides."""
    max_chance_log10: float = -5.0
    """log10 of the largest acceptable probability that unrelated slides agree as well as these do."""
    max_manual_chance_log10: float = -3.0
    """The same where a person's landmarks say where to start: one place was tried, not hundreds."""
    min_windows: int = 8
    """Fewer held-out windows than this prove nothing."""
    p95_margin_fraction: float = 1.6
    """The stated p95 is the estimated one times this (calibrated on truth: docs/registration.md)."""

    def __post_init__(self) -> None:
        require_range("accept_median_um", self.accept_median_um, 0.1, 1000)
        require_range("review_median_um", self.review_median_um, self.accept_median_um, 1000)
        require_range("tile_p95_um", self.tile_p95_um, 0.1, 1000)
        require_range("work_px", self.work_px, 100, 4000)
        require_range("finest_mpp", self.finest_mpp, 0.05, 100)
        require_range("smoothness", self.smoothness, 1e-3, 1e6)
        require_range("max_slope_fraction", self.max_slope_fraction, 0.01, 0.8)
        require_range("detail_mpp", self.detail_mpp, 0.05, 100)
        require_range("restain_mpp", self.restain_mpp, 0.05, 100)
        require_range("detail_windows", self.detail_windows, 0, 10_000)
        require_range("coarse_px", self.coarse_px, 40, 400)
        require_range("angle_step_deg", self.angle_step_deg, 1, 30)
        require_range("starts", self.starts, 1, 100)
        if len(self.unknown_scale_range) != 2:
            raise ValueError(f"unknown_scale_range: expected two scales. Received: {self.unknown_scale_range}")
        require_range("unknown_scale_range[0]", self.unknown_scale_range[0], 0.1, 1)
        require_range("unknown_scale_range[1]", self.unknown_scale_range[1], 1, 10)
        require_range("max_chance_log10", self.max_chance_log10, -100, -2)
        require_range("max_manual_chance_log10", self.max_manual_chance_log10, -100, -2)
        require_range("min_windows", self.min_windows, 4, 10_000)
        require_range("p95_margin_fraction", self.p95_margin_fraction, 1, 10)
