"""What a way to a model server must do: two implementations, gRPC and REST. No TensorFlow here."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np

from virtual_stain.errors import ModelError
from virtual_stain.scoring.predictor import Answers, Tiles

_PROXIES = ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy")


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

    def maps(self, windows: Tiles, version: int | None, timeout_s: float) -> Answers: ...

    def close(self) -> None: ...


def too_large(address: str, n_bytes: int, text: str) -> ModelError:
    """A refusal that the same request meets every time."""
    return ModelError(
        f"{address}: the server takes no message of {n_bytes / 2**20:.1f} MiB: {text}",
        hint='Smaller messages: --set scoring.batch_size=1, or scoring.transport="jpeg" (a tenth of the bytes); '
        "or a server that takes larger ones.",
    )


def is_loopback_target(target: str) -> bool:
    """Whether `host:port` is this machine."""
    host = target.rpartition(":")[0].strip("[]").lower()
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def proxy_note(target: str) -> str:
    """A sentence about the proxy that the environment sets for this server; empty without one."""
    if is_loopback_target(target):
        return ""
    named = [name for name in _PROXIES if os.environ.get(name) or os.environ.get(name.upper())]
    if not named:
        return ""
    host = target.rpartition(":")[0]
    return f" It is asked through the proxy that {', '.join(named)} names; no_proxy={host} goes around it."


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
