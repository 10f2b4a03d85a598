"""[tiling]: the sliding window over both slides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from virtual_stain.config.check import Range, check_ranges, require_range


@dataclass(frozen=True, slots=True, kw_only=True)
class TilingSettings:
    """The window is physical: the same tissue area whatever the scanner."""

    window_um: Annotated[float, Range(10, 5000)] = 307.2
    """Side of the window, µm (1536 px at 0.2 µm/px in the source)."""
    tile_px: Annotated[int, Range(32, 8192)] = 1024
    """Side of the stored tile, px; 307.2 µm / 1024 px = 0.3 µm/px."""
    stride_um: float | None = None
    """Step between windows, µm; None: the window, so that tiles do not overlap."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.stride_um is not None:
            # a longer step would leave tissue between the windows
            require_range("stride_um", self.stride_um, 1, self.window_um)

    @property
    def tile_mpp(self) -> float:
        """Pixel size of a tile, µm/px."""
        return self.window_um / self.tile_px

    @property
    def step_um(self) -> float:
        return self.window_um if self.stride_um is None else self.stride_um
