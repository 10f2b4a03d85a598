"""[scoring]: how a slide's reading is made from its tiles. Geometry comes from the bundle, never from here."""

from __future__ import annotations

from dataclasses import dataclass

from virtual_stain.config.check import require_range


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringSettings:
    """Sort from large to small, mean of the top N; and the mean of all."""

    top_n: int = 30
    """Tiles in the source's top mean."""
    batch_size: int = 8
    """Tiles per call of the network."""

    def __post_init__(self) -> None:
        require_range("top_n", self.top_n, 1, 100_000)
        require_range("batch_size", self.batch_size, 1, 4096)
