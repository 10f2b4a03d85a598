"""The number that the network answers for a crop: the value definition of the records, as an output of the graph.

The network knows two things of a crop: which share of its tumour cells is positive, and how many there are. Were the
positive and the negative cells of a crop two independent Poisson numbers, their sum would be Poisson and the positive
ones binomial given the sum; so the same two outputs carry every definition:

    positive_ratio   p                     negative_ratio   1 − p
    positive_count   p · λ / area          negative_count   (1 − p) · λ / area        cells per mm²
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import keras

from virtual_stain.markers import ValueDefinition

MAX_LOG_CELLS = 9.0  # 8,000 cells: more than any crop holds; keeps a wild start from overflowing


@dataclass(frozen=True, slots=True)
class ValueOutput:
    """What the output `<marker>` of a network means."""

    definition: ValueDefinition = ValueDefinition.POSITIVE_RATIO
    crop_mm2: float = 0.0
    """Area of a crop, mm²: what a count is divided by (a ratio needs none)."""

    def __post_init__(self) -> None:
        if not self.definition.is_ratio and not self.crop_mm2 > 0:
            raise ValueError(f"Expected the area of a crop for {self.definition.value}. Received: {self.crop_mm2}")

    @property
    def crop_um(self) -> float:
        """Side of a crop, µm."""
        return 1000 * math.sqrt(self.crop_mm2)

    def log_share(self, logit: keras.KerasTensor) -> keras.KerasTensor:
        """Logarithm of the share of the tumour cells that the definition counts; `logit` is that of positive cells."""
        return keras.ops.log_sigmoid(logit if self.definition.of_positive else -logit)

    def read(self, logit: keras.KerasTensor, log_cells: keras.KerasTensor, places: int = 1) -> keras.KerasTensor:
        """float32, shape of both: the value of crops, or of their places where a crop has several (dense head)."""
        share = keras.ops.sigmoid(logit if self.definition.of_positive else -logit)
        if self.definition.is_ratio:
            return share
        cells = keras.ops.exp(keras.ops.clip(log_cells, -MAX_LOG_CELLS, MAX_LOG_CELLS))
        return share * cells * (places / self.crop_mm2)


def value_output(definition: ValueDefinition, crop_px: int, tile_mpp: float) -> ValueOutput:
    """`tile_mpp`: pixel size of the tiles, µm/px."""
    return ValueOutput(definition, (crop_px * tile_mpp / 1000) ** 2)
