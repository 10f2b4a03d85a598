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

    def __post_init__(self) -> None:
        require_range("accept_median_um", self.accept_median_um, 0.1, 1000)
        require_range("review_median_um", self.review_median_um, self.accept_median_um, 1000)
        require_range("tile_p95_um", self.tile_p95_um, 0.1, 1000)
