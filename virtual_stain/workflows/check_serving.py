"""`vstain serving check`: a running TF Serving from outside, what `vstain score` relies on.

With a bundle the same tiles are read in this process and compared (needs TensorFlow).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from virtual_stain.config import ScoringSettings
from virtual_stain.errors import ModelError, VirtualStainError
from virtual_stain.scoring.open_model import open_predictor
from virtual_stain.scoring.predictor import Predictor, Tiles
from virtual_stain.scoring.remote import RemotePredictor

_LOSSLESS = 1e-4
Answers = dict[str, npt.NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Server:
    """A TF Serving and the model that is asked for."""

    host: str
    model: str
    grpc_port: int = 8500
    rest_port: int = 8501

    @property
    def grpc(self) -> str:
        return f"grpc://{self.host}:{self.grpc_port}/{self.model}"

    @property
    def rest(self) -> str:
        return f"http://{self.host}:{self.rest_port}/v1/models/{self.model}"


def check_server(server: Server, bundle: Path | None, say: Callable[[str], None]) -> None:
    """One line a check to `say`; `bundle`: the exported model to compare with. Raises ModelError where one fails."""
    try:
        over_grpc, over_rest = (open_predictor(a, ScoringSettings()) for a in (server.grpc, server.rest))
    except VirtualStainError as error:
        say(f"FAIL describe: {error.message}")
        raise
    assert isinstance(over_grpc, RemotePredictor)
    assert isinstance(over_rest, RemotePredictor)
    card = over_grpc.card
    side, tiles = card.tiling.tile_px, _waves(card.tiling.tile_px, 3)
    markers = ", ".join(m.value for m in card.markers)
    say(f"{card.name} version {card.version}: {markers}, {card.tiling.window_um:g} µm = {side} px")
    checks = _Checks(say)
    checks.run("describe over gRPC and REST", lambda: _cards(over_grpc, over_rest))
    checks.run("gRPC and REST agree", lambda: _same(over_grpc.predict(tiles), over_rest.predict(tiles), "they"))
    if bundle is not None:
        local = open_predictor(str(bundle), ScoringSettings(precision="float32"))
        checks.run(
            "served and local agree", lambda: _same(local.predict(tiles), over_grpc.predict(tiles), "the readings")
        )
    checks.run(
        "a tile alone and in a batch",
        lambda: _same(over_grpc.predict(tiles[:1]), _first(over_grpc.predict(tiles)), "they"),
    )
    small = np.zeros((1, side // 2, side // 2, 3), np.uint8)
    for way, predictor, address in (("gRPC", over_grpc, server.grpc), ("REST", over_rest, server.rest)):
        _refusals(checks, way, predictor, address, small)
    checks.run("throughput", lambda: _throughput(over_grpc, tiles))
    if checks.failed:
        raise ModelError(
            f"{server.host}: {checks.failed} of {checks.count} checks failed.",
            hint="The lines that begin with FAIL say what was expected and what came.",
        )


def _refusals(checks: _Checks, way: str, predictor: Predictor, address: str, small: Tiles) -> None:
    """What the server must not answer."""
    checks.run(f"another tile size over {way}", lambda: _refused(lambda: predictor.predict(small), "Expected"))
    checks.run(f"another name over {way}", lambda: _refused(lambda: open_predictor(address + "-none"), "no such model"))


def _waves(side: int, count: int) -> Tiles:
    """uint8[count, side, side, 3]: no tissue, but neither padding nor glass; the same on every machine."""
    y, x = np.mgrid[:side, :side]
    waves = [128 + 60 * np.sin((x * (i + 2) + y * (3 - i)) / 17.0) for i in range(3)]
    tile = np.stack(waves, axis=-1)
    return np.stack([np.clip(tile * (0.7 + 0.05 * i), 0, 255).astype(np.uint8) for i in range(count)])


class _Checks:
    """Runs and counts them."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say, self.failed, self.count = say, 0, 0

    def run(self, name: str, check: Callable[[], str]) -> None:
        try:
            self.count += 1
            text, mark = check(), "ok  "
        except (VirtualStainError, AssertionError) as error:
            text, mark = str(error), "FAIL"
            self.failed += 1
        self.say(f"{mark} {name}: {text}")


def _same(a: Answers, b: Answers, what: str) -> str:
    gap = max(float(np.nanmax(np.abs(a[n] - b[n]) / np.maximum(1.0, np.abs(a[n])))) for n in a)
    assert gap <= _LOSSLESS, f"{what} differ by {gap:.2g}, expected at most {_LOSSLESS:g}"
    return f"largest difference {gap:.2g}"


def _refused(call: Callable[[], object], sentence: str) -> str:
    message = None
    try:
        call()
    except ModelError as error:
        message = error.message
    assert message is not None, "expected a refusal. Received: an answer"
    assert sentence in message, f"expected a refusal that says {sentence!r}. Received: {message}"
    return "refused, as it must be"


def _throughput(predictor: RemotePredictor, tiles: Tiles) -> str:
    requests = predictor.in_flight
    with ThreadPoolExecutor(requests) as pool:
        start = time.perf_counter()
        list(pool.map(predictor.predict, [tiles] * requests * 2))
        seconds = time.perf_counter() - start
    return f"{requests} requests of {len(tiles)} tiles at a time: {2 * requests * len(tiles) / seconds:.2f} tiles/s"


def _cards(a: RemotePredictor, b: RemotePredictor) -> str:
    assert a.card == b.card, "expected one card. Received: two different ones"
    return f"the same card, served version {a.engine['served_version']} and {b.engine['served_version']}"


def _first(answers: Answers) -> Answers:
    return {name: values[:1] for name, values in answers.items()}
