"""[tissue]: the tissue mask on an overview."""

from __future__ import annotations

from dataclasses import dataclass

from virtual_stain.config.check import require_range


@dataclass(frozen=True, slots=True, kw_only=True)
class TissueSettings:
    """What counts as tissue."""

    overview_mpp: float = 8.0
    """Pixel size of the overview on which tissue is found, µm/px."""

    def __post_init__(self) -> None:
        require_range("overview_mpp", self.overview_mpp, 0.5, 64)
