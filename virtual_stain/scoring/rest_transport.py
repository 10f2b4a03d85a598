"""TF Serving over REST: encoded tiles, no TensorFlow on the client.

Pixels as JSON numbers would be ten times slower than the network itself; a tile travels as PNG (lossless) or JPEG in
base64. See the server's RESTful API: POST …/versions/N:predict, GET …/versions/N.
"""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np

from virtual_stain.errors import ConfigError, ModelError
from virtual_stain.installation import install_command
from virtual_stain.scoring.address import ServerAddress
from virtual_stain.scoring.predictor import Answers, Tiles
from virtual_stain.scoring.transport import (
    Described,
    ServerBusyError,
    VersionGoneError,
    encode_jpeg,
    encode_png,
    is_loopback_target,
    too_large,
)

_SIGNATURES = {"quadrants": "serving_default", "center": "center"}
_BUSY = {408, 429, 500, 502, 503, 504}


class RestTransport:
    """A pool of connections to one model; fits `Transport`."""

    def __init__(self, address: ServerAddress, crops: str, *, jpeg: bool = False, connections: int = 8) -> None:
        """Raises ConfigError where httpx is not installed. Does not connect yet."""
        try:
            import httpx
        except ImportError:
            raise ConfigError(
                f"{address}: scoring over REST needs httpx, which is not installed.",
                hint=install_command("serving"),
            ) from None
        self._address, self._encode = address, encode_jpeg if jpeg else encode_png
        self._signature = _SIGNATURES[crops]
        self._httpx = httpx
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        near = is_loopback_target(address.target)  # no proxy of the environment stands between this machine and itself
        self._client = httpx.Client(base_url=f"{address.scheme}://{address.target}", limits=limits, trust_env=not near)

    def describe(self, timeout_s: float) -> Described:
        version = self._address.version
        if version is None:
            version = self._served_version(timeout_s)
        answer = self._predict("describe", [{"query": ""}], version, timeout_s)
        card = answer[0]["card"] if answer and isinstance(answer[0], dict) and "card" in answer[0] else None
        card = answer[0] if card is None and answer and isinstance(answer[0], str) else card
        if not isinstance(card, str):
            raise ModelError(f"{self._address}: expected `describe` to answer card. Received: {answer!r:.200}")
        return Described(card, version)

    def predict(self, tiles: Tiles, version: int | None, timeout_s: float) -> Answers:
        instances = [{"image_bytes": {"b64": base64.b64encode(self._encode(t)).decode("ascii")}} for t in tiles]
        rows = self._predict(self._signature, instances, version, timeout_s)
        if len(rows) != len(tiles) or not all(isinstance(r, dict) for r in rows):
            raise ModelError(f"{self._address}: expected {len(tiles)} answers. Received: {rows!r:.200}")
        try:
            return {name: np.array([row[name] for row in rows], np.float32) for name in rows[0]}
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"{self._address}: the answers are not of one kind: {error!r}") from None

    def maps(self, windows: Tiles, version: int | None, timeout_s: float) -> Answers:
        """Raises ModelError: pixels and maps as JSON numbers would be ten times slower than the generator."""
        raise ModelError(
            f"{self._address}: expected the gRPC port of the server for the maps of an indirect model. "
            "Received: its REST port.",
            hint=f"--model grpc://{self._address.target.rpartition(':')[0]}:8500/{self._address.model}",
        )

    def close(self) -> None:
        self._client.close()

    def _served_version(self, timeout_s: float) -> int | None:
        """The version that the server takes where none is named: the highest that is available."""
        label = "" if self._address.label is None else f"/labels/{self._address.label}"
        value = self._request("GET", f"/v1/models/{self._address.model}{label}", None, timeout_s)
        entries = value.get("model_version_status", []) if isinstance(value, dict) else []
        ready = [int(e["version"]) for e in entries if e.get("state") == "AVAILABLE"]
        if entries and not ready:
            raise ServerBusyError(f"no version is available yet: {[e.get('state') for e in entries]}")
        return max(ready, default=None)

    def _predict(self, signature: str, instances: list[Any], version: int | None, timeout_s: float) -> list[Any]:
        path = f"/v1/models/{self._address.model}"
        if version is not None:
            path += f"/versions/{version}"
        elif self._address.label is not None:
            path += f"/labels/{self._address.label}"
        value = self._request(
            "POST", f"{path}:predict", {"signature_name": signature, "instances": instances}, timeout_s
        )
        rows = value.get("predictions") if isinstance(value, dict) else None
        if not isinstance(rows, list):
            raise ModelError(f"{self._address}: expected predictions. Received: {value!r:.200}")
        return rows

    def _request(self, method: str, path: str, body: Any, timeout_s: float) -> Any:
        content = None if body is None else json.dumps(body)
        try:
            answer = self._client.request(method, path, content=content, timeout=timeout_s)
        except (self._httpx.TransportError, OSError) as error:
            raise ServerBusyError(f"{type(error).__name__}: {error}") from None
        text = answer.text
        if answer.status_code == 413:
            raise too_large(str(self._address), len(content or ""), text[:200])
        if answer.status_code == 404:
            raise VersionGoneError(text[:500])
        # the graph's own refusals come as 400 or, from some servers, as 500 with the sentence inside
        if answer.status_code in _BUSY and "Expected tiles of" not in text:
            raise ServerBusyError(f"HTTP {answer.status_code}: {text[:200]}")
        if answer.status_code != 200:
            raise ModelError(f"{self._address}: the server refused: HTTP {answer.status_code}: {text[:500]}")
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            raise ModelError(
                f"{self._address}: expected JSON. Received: {text[:120]!r}",
                hint="Is this the REST port of a TF Serving? Its default is 8501.",
            ) from None
