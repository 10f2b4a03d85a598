"""Checks a running TF Serving from outside: what `vstain score --model grpc://…` and `http://…` rely on.

python tools/check_serving.py HOST --model ki67 [--bundle models/ki67]

With --bundle the same tiles are read in this process and compared (needs TensorFlow). One line a check; ends with 5
when one fails. To start a server: docker compose -f models/ki67/serving/docker-compose.yml up
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
import numpy as np

from virtual_stain.config import ScoringSettings
from virtual_stain.errors import ModelError, VirtualStainError
from virtual_stain.scoring.open_model import open_predictor
from virtual_stain.scoring.predictor import Tiles
from virtual_stain.scoring.remote import RemotePredictor

LOSSLESS = 1e-4


def test_tiles(side: int, count: int) -> Tiles:
    """uint8[count, side, side, 3]: no tissue, but neither padding nor glass; the same on every machine."""
    y, x = np.mgrid[:side, :side]
    waves = [128 + 60 * np.sin((x * (i + 2) + y * (3 - i)) / 17.0) for i in range(3)]
    tile = np.stack(waves, axis=-1)
    return np.stack([np.clip(tile * (0.7 + 0.05 * i), 0, 255).astype(np.uint8) for i in range(count)])


class Checks:
    """Runs and counts them."""

    def __init__(self) -> None:
        self.failed = 0

    def run(self, name: str, check: Callable[[], str]) -> None:
        try:
            text, mark = check(), "ok  "
        except (VirtualStainError, AssertionError) as error:
            text, mark = str(error), "FAIL"
            self.failed += 1
        click.echo(f"{mark} {name}: {text}")


def _same(a: dict[str, np.ndarray], b: dict[str, np.ndarray], what: str) -> str:
    gap = max(float(np.nanmax(np.abs(a[n] - b[n]) / np.maximum(1.0, np.abs(a[n])))) for n in a)
    assert gap <= LOSSLESS, f"{what} differ by {gap:.2g}, expected at most {LOSSLESS:g}"
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


@click.command()
@click.argument("host")
@click.option("--model", "name", required=True, help="The model's name in the server's models.config.")
@click.option("--grpc-port", default=8500, show_default=True)
@click.option("--rest-port", default=8501, show_default=True)
@click.option("--bundle", type=click.Path(path_type=Path, exists=True), help="The exported model, to compare with.")
def main(host: str, name: str, grpc_port: int, rest_port: int, bundle: Path | None) -> None:
    """Prints one line for each check."""
    grpc_address, rest_address = f"grpc://{host}:{grpc_port}/{name}", f"http://{host}:{rest_port}/v1/models/{name}"
    try:
        over_grpc, over_rest = (open_predictor(a, ScoringSettings()) for a in (grpc_address, rest_address))
    except VirtualStainError as error:
        click.echo(f"FAIL describe: {error}")
        sys.exit(error.exit_code)
    assert isinstance(over_grpc, RemotePredictor)
    card = over_grpc.card
    side, tiles = card.tiling.tile_px, test_tiles(card.tiling.tile_px, 3)
    markers = ", ".join(m.value for m in card.markers)
    click.echo(f"{card.name} version {card.version}: {markers}, {card.tiling.window_um:g} µm = {side} px")
    checks = Checks()
    checks.run("describe over gRPC and REST", lambda: _cards(over_grpc, over_rest))  # type: ignore[arg-type]
    checks.run("gRPC and REST agree", lambda: _same(over_grpc.predict(tiles), over_rest.predict(tiles), "they"))
    if bundle is not None:
        local = open_predictor(str(bundle), ScoringSettings(precision="float32"))
        checks.run(
            "served and local agree", lambda: _same(local.predict(tiles), over_grpc.predict(tiles), "the readings")
        )
    one = lambda: over_grpc.predict(tiles[:1])  # noqa: E731
    checks.run("a tile alone and in a batch", lambda: _same(one(), _first(over_grpc.predict(tiles)), "they"))
    small = np.zeros((1, side // 2, side // 2, 3), np.uint8)
    for way, predictor in (("gRPC", over_grpc), ("REST", over_rest)):
        checks.run(f"another tile size over {way}", lambda p=predictor: _refused(lambda: p.predict(small), "Expected"))
        wrong = (grpc_address if way == "gRPC" else rest_address) + "-none"
        checks.run(f"another name over {way}", lambda a=wrong: _refused(lambda: open_predictor(a), "no such model"))
    checks.run("throughput", lambda: _throughput(over_grpc, tiles))
    sys.exit(5 if checks.failed else 0)


def _cards(a: RemotePredictor, b: RemotePredictor) -> str:
    assert a.card == b.card, "expected one card. Received: two different ones"
    return f"the same card, served version {a.engine['served_version']} and {b.engine['served_version']}"


def _first(answers: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: values[:1] for name, values in answers.items()}


if __name__ == "__main__":
    main()
