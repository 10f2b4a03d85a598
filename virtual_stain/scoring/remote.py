"""A model on a TF Serving: concurrent requests, retries with back-off, and never two versions in one slide.

The client reads `describe` first: geometry, thresholds and markers are the model's. The version that answered is named
in every further request, so that a server which switches versions in the middle answers with an error and not with
numbers of another model; after a failure the card is read again before any further tile.
"""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from virtual_stain.config import ScoringSettings
from virtual_stain.errors import ConfigError, InputError, ModelError, VerificationError
from virtual_stain.exporting.card import ModelCard, card_from_json
from virtual_stain.files import parse_json
from virtual_stain.scoring.address import ServerAddress
from virtual_stain.scoring.map_parts import maps_in_parts
from virtual_stain.scoring.predictor import Answers, Predictor, Tiles
from virtual_stain.scoring.transport import Described, ServerBusyError, Transport, VersionGoneError, proxy_note

T = TypeVar("T")
FIRST_WAIT_S, LONGEST_WAIT_S = 0.2, 10.0


class RemotePredictor(Predictor):
    """`predict` is safe for threads."""

    def __init__(self, address: ServerAddress, settings: ScoringSettings) -> None:
        """Reads the card. Raises ModelError (no such server, model or version, or not one of ours), ConfigError."""
        self._address, self._settings = address, settings
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._unsure = False
        self._transport = _transport(address, settings)
        try:
            described = self._patiently(lambda: self._transport.describe(settings.server_timeout_s), first=True)
            self.card = _card(described, address)
        except BaseException:
            self._transport.close()
            raise
        self._version, self._card_json = described.version, described.card_json
        self.sha256 = hashlib.sha256(described.card_json.encode()).hexdigest()
        self.in_flight = settings.server_requests
        self.batch_size = 4
        self.engine: dict[str, Any] = {
            "name": "tf-serving",
            "address": str(address),
            "served_version": described.version,
            "transport": settings.transport,
            "identified_by": "card",
        }

    def predict(self, tiles: Tiles) -> Answers:
        """See `Predictor.predict`."""
        answers = self._patiently(lambda: self._ask(tiles))
        return {name: answers[name] for name in self.card.outputs if name in answers}

    def maps(self, windows: Tiles) -> Answers:
        """See `Predictor.maps`: in parts that a server takes in one message."""
        if self.card.training.get("path") != "indirect":
            return super().maps(windows)
        halo_px = int(self.card.training["map"]["halo_px"])
        return maps_in_parts(lambda part: self._patiently(lambda: self._ask(part, maps=True)), windows, halo_px)

    def cancel(self) -> None:
        """Ends calls that wait now for the server to come back; later ones are those of another slide."""
        stopped, self._stop = self._stop, threading.Event()
        stopped.set()

    def close(self) -> None:
        self._transport.close()

    def _ask(self, tiles: Tiles, *, maps: bool = False) -> Answers:
        with self._lock:
            if self._unsure:  # it was away: is it still the same model?
                now = self._transport.describe(self._settings.server_timeout_s)
                if (now.card_json, now.version) != (self._card_json, self._version):
                    raise ModelError(
                        f"{self._address}: the server came back with another model (version {now.version}).",
                        hint="Nothing was mixed: the slide's answers so far are kept apart. Run the command again.",
                    )
                self._unsure = False
        ask = self._transport.maps if maps else self._transport.predict
        return ask(tiles, self._version, self._settings.server_timeout_s)

    def _patiently(self, ask: Callable[[], T], *, first: bool = False) -> T:
        """`ask` until it is answered, at most `server_patience_s` (10 s for the first contact) after it was asked."""
        patience = min(10.0, self._settings.server_patience_s) if first else self._settings.server_patience_s
        start, wait, stop = time.monotonic(), FIRST_WAIT_S, self._stop
        while True:
            try:
                return ask()
            except ServerBusyError as error:
                self._unsure = not first
                left = start + patience - time.monotonic()
                if left <= 0 or stop.is_set():
                    raise self._down(str(error), patience, first) from None
            except VersionGoneError as error:
                raise self._gone(str(error), first) from None
            # a random part, so that many clients do not come back at once
            stop.wait(min(wait * (0.5 + random.random()), left))
            wait = min(2 * wait, LONGEST_WAIT_S)

    def _down(self, text: str, patience: float, first: bool) -> ModelError:
        if first:
            return ModelError(
                f"{self._address}: no answer: {text}{proxy_note(self._address.target)}",
                hint="Is TF Serving running there, and is this the right port (gRPC 8500, REST 8501)?",
            )
        return ModelError(
            f"{self._address}: the server does not answer any more (waited {patience:g} s): {text}",
            hint="Finished slides and tiles are kept; start the server and run the same command again.",
        )

    def _gone(self, text: str, first: bool) -> ModelError:
        if first:
            return ModelError(
                f"{self._address}: the server has no such model or version: {text}",
                hint=f"The name is the one in the server's models.config: {self._address.target}/v1/models/NAME",
            )
        return ModelError(
            f"{self._address}: version {self._version} is no longer served: {text}",
            hint="The server has switched to another version; run the command again to score with that one.",
        )


def _transport(address: ServerAddress, settings: ScoringSettings) -> Transport:
    jpeg = settings.transport == "jpeg"
    if address.grpc:
        from virtual_stain.scoring.grpc_transport import GrpcTransport

        return GrpcTransport(address, settings.crops, jpeg=jpeg)
    from virtual_stain.scoring.rest_transport import RestTransport

    return RestTransport(address, settings.crops, jpeg=jpeg, connections=settings.server_requests + 1)


def _card(described: Described, address: ServerAddress) -> ModelCard:
    try:
        value = parse_json(described.card_json, f"{address}: expected a model card")
        return card_from_json(value, f"{address}: describe")
    except (InputError, AttributeError):
        raise ModelError(f"{address}: expected a model card. Received: {described.card_json[:120]!r}") from None
    except (VerificationError, ConfigError) as error:
        raise ModelError(error.message, hint=error.hint) from None
