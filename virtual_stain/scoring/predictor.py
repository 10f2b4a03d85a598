"""What scoring asks of a model, wherever it runs. No TensorFlow here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from virtual_stain.errors import ModelError
from virtual_stain.exporting.card import ModelCard

MAPS = "virtual"
"""Signature of the generator's maps, in bundles of the indirect path."""
PLACE_PX = 4
"""Side of a place of these maps, px of the window."""
Tiles = npt.NDArray[np.uint8]  # uint8[B, T, T, 3] RGB
Answers = dict[str, npt.NDArray[np.float32]]  # name of `ModelCard.outputs` → float32[B]


class Predictor(ABC):
    """A model that is ready: geometry, thresholds and markers come from its card.

    A subclass sets `card` and `sha256` and answers `predict`. Everything else has a default.
    """

    card: ModelCard
    sha256: str
    """Identifies the model's every byte."""
    batch_size: int = 4
    """Tiles a call that suit the engine and its device; taken where the settings name no number."""
    in_flight: int = 1
    """Calls of `predict` that may run at once."""
    engine: Mapping[str, Any] = MappingProxyType({})
    """What runs the network, for the report."""
    compares_engines: bool = False
    """Whether `check` looks at tiles; where it does not, none are read for it."""

    @abstractmethod
    def predict(self, tiles: Tiles) -> Answers:
        """Fractions 0–1 and expected tumour cells ≥ 0 of uint8[B, T, T, 3]; NaN: no reading.

        Raises ModelError.
        """

    def check(self, tiles: Tiles | None) -> dict[str, Any]:
        """Compares a fast engine with the reference on tiles of the slide and decides which reads it; what it chose.

        `tiles`: None where the slide has none that can be read.
        """
        return dict(self.engine)

    def maps(self, windows: Tiles) -> Answers:
        """What the generator of the indirect path says of uint8[B, h, w, 3], sides multiples of 16: float32[B, h/4,
        w/4] by name (docs/virtual.md). Raises ModelError, also where the model has no generator.
        """
        raise ModelError(
            f"{self.card.name}: expected a model with a generator, that draws windows. "
            f"Received: {type(self).__name__}.",
            hint="Name the folder that vstain export wrote, or the gRPC port of the server that serves it.",
        )

    # by default nothing waits and nothing is held
    def cancel(self) -> None:  # noqa: B027
        """Ends calls that wait for a server."""

    def close(self) -> None:  # noqa: B027
        """Gives back threads and connections; nothing is asked of the model afterwards."""
