"""Models that are ready to read tiles."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from virtual_stain.api.arguments import PathLike, Settings, config_of
from virtual_stain.errors import InputError
from virtual_stain.scoring.open_model import open_predictor
from virtual_stain.scoring.predictor import Predictor


@dataclass(frozen=True, slots=True)
class Model:
    """An exported model on this machine or on a server. It is a context manager."""

    address: str
    """Folder or address from which the model was loaded."""
    predictor: Predictor
    """The engine that runs the model."""

    @property
    def markers(self) -> tuple[str, ...]:
        """Markers that the model reads, such as "ki67"."""
        return tuple(m.value for m in self.predictor.card.markers)

    @property
    def tile_px(self) -> int:
        """Side of a tile that the model takes, px."""
        return self.predictor.card.tiling.tile_px

    @property
    def tile_um(self) -> float:
        """Side of the tissue that a tile must show, µm."""
        return self.predictor.card.tiling.window_um

    @property
    def sha256(self) -> str:
        """Hash that identifies every byte of the model."""
        return self.predictor.sha256

    def predict(self, tiles: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[np.float32]]:
        """Reads a batch of tiles.

        Takes uint8[B, tile_px, tile_px, 3], RGB. Returns {"ki67": float32[B], "ki67_tumour_cells": float32[B], …}.
        Ratios are 0–1. NaN means that a tile has no reading. Raises InputError for arrays of another shape or type,
        and ModelError if the model cannot answer.
        """
        wanted = (self.tile_px, self.tile_px, 3)
        if tiles.ndim != 4 or tiles.shape[1:] != wanted or tiles.dtype != np.uint8:
            raise InputError(
                f"tiles: expected uint8[B, {self.tile_px}, {self.tile_px}, 3] that show {self.tile_um:g} µm each. "
                f"Received: {tiles.dtype}{list(tiles.shape)}"
            )
        return self.predictor.predict(tiles)

    def close(self) -> None:
        """Releases threads and connections."""
        self.predictor.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> Any:
        self.close()


def load_model(
    model: PathLike,
    *,
    trusted_key: PathLike | None = None,
    config: PathLike | None = None,
    settings: Settings = None,
) -> Model:
    """Verifies and loads an exported model.

    Parameters
    ----------
    model
        A folder (MODEL or MODEL/<version>), object storage (s3://bucket/MODEL), or a server
        (grpc://host:8500/name or http://host:8501/v1/models/name).
    trusted_key
        File of a public key. A bundle that was not signed with the matching private key is refused.
    config, settings
        A TOML file, and single settings that change it, such as `{"scoring.engine": "openvino"}`.

    Raises
    ------
    ModelError, VerificationError
        The bundle is damaged, or the server has no such model.
    ConfigError, InputError
        The address is of no known kind, or there is no such folder.

    Examples
    --------
    >>> import virtual_stain as vs
    >>> with vs.load_model("model") as model:
    ...     print(model.markers)
    ('ki67',)
    """
    scoring = config_of(config, settings).scoring
    key = None if trusted_key is None else Path(trusted_key)
    return Model(str(model), open_predictor(str(model), scoring, key))
