"""What a way to a model server must do: two implementations, gRPC and REST. No TensorFlow here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np

from virtual_stain.errors import ModelError
from virtual_stain.score.predictor import Answers, Tiles


class ServerBusyError(Exception):
    """The server cannot answer now (down, restarting, queue full, too slow): the same request may succeed later."""


class VersionGoneError(Exception):
    """The server does not serve this model or version (any more)."""


@dataclass(frozen=True, slots=True)
class Described:
    """What the server says about the model."""

    card_json: str
    version: int | None
    """The version that answered; every further request names it."""


class Transport(Protocol):
    """Requests to one model. Safe for threads. Raises ServerBusyError, VersionGoneError, ModelError."""

    def describe(self, timeout_s: float) -> Described: ...

    def predict(self, tiles: Tiles, version: int | None, timeout_s: float) -> Answers: ...

    def close(self) -> None: ...


def encode_png(tile: Tiles) -> bytes:
    """Lossless; the fastest compression, since the network is near and the model is slow."""
    return _encoded(".png", tile, [cv2.IMWRITE_PNG_COMPRESSION, 1])


def encode_jpeg(tile: Tiles) -> bytes:
    """JPEG 95, 4:4:4, as the training records store tiles: a tenth of the bytes, readings within 0.01."""
    options = [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    return _encoded(".jpg", tile, options)


def _encoded(kind: str, tile: Tiles, options: list[int]) -> bytes:
    done, data = cv2.imencode(kind, cv2.cvtColor(tile, cv2.COLOR_RGB2BGR), options)
    if not done:
        raise ModelError(f"a tile of shape {tile.shape} cannot be encoded as {kind}.")
    return np.asarray(data, np.uint8).tobytes()
