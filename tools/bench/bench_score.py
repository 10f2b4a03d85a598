"""The whole `vstain score` beside its network alone, the network beside `keras.Model.predict`, parity, and serving.

python tools/bench/bench_score.py --out DIR [--columns 12]

One run, one table; ratios are between figures of this run. In DIR it keeps what is slow to make (a slide of synthetic
tissue at 0.25 µm/px, a small training, the bundle) and uses it again. "core" is processor seconds.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the command does

import click
import numpy as np
from scoring_model import trained_network, write_bench_bundle
from scoring_slides import Mirrored, he_picture, write_jpeg_tiff

from virtual_stain.config import ScoringSettings, TissueSettings
from virtual_stain.geometry import Size
from virtual_stain.scoring.local import LocalPredictor
from virtual_stain.scoring.start_tensorflow import start_tensorflow
from virtual_stain.slides.slide import SlideRef, open_slide
from virtual_stain.slides.tissue import find_tissue
from virtual_stain.slides.window import read_window
from virtual_stain.tiles import plan_tiles

ENGINES = {
    "TensorFlow float32": {"precision": "float32"},
    "TensorFlow bfloat16": {"precision": "bfloat16"},
    "OpenVINO float32": {"engine": "openvino", "precision": "float32"},
    "OpenVINO bfloat16": {"engine": "openvino", "precision": "bfloat16"},
}
SERVER = """
import sys; sys.path.insert(0, ".")
from pathlib import Path
from tests.fixtures.serving import Loopback
s = Loopback(Path(sys.argv[1]), "bench")
print(s.grpc_address, s.rest_address, flush=True)
sys.stdin.read()
"""


def prepare(out: Path, columns: int, steps: int) -> tuple[Path, Path]:
    """(slide, model)."""
    slide, model, picture = out / f"slide_{columns}.tif", out / "model", out / "picture.npy"
    out.mkdir(parents=True, exist_ok=True)
    if not picture.exists():
        np.save(picture, he_picture())
    if not slide.exists():
        write_jpeg_tiff(slide, Mirrored(np.load(picture), Size(*[1229 * columns // 16 * 16] * 2)))
    if not (model / "1" / "bundle.json").exists():
        network = trained_network(np.load(picture), steps)
        network.model.save_weights(out / "bench.weights.h5")
        write_bench_bundle(model, network)
    return slide, model


def some_tiles(slide: Path, count: int, tile_px: int = 1024) -> np.ndarray:
    """uint8[count, 1024, 1024, 3] spread over the slide."""
    from virtual_stain.config import TilingSettings

    with open_slide(SlideRef(slide)) as opened:
        plan = plan_tiles(opened, find_tissue(opened, TissueSettings()), TilingSettings())
        chosen = np.linspace(0, len(plan.tiles) - 1, count).astype(int)
        return np.stack([read_window(opened, plan.tiles[i].box, Size(tile_px, tile_px)) for i in chosen])


def timed(function: Callable[[], Any], repeats: int = 1) -> tuple[float, float, Any]:
    """(wall, core) seconds of the best of `repeats`, and the result."""
    best, result = (np.inf, np.inf), None
    for _ in range(repeats):
        wall, core = time.perf_counter(), time.process_time()
        result = function()
        best = min(best, (time.perf_counter() - wall, time.process_time() - core))
    return *best, result


def keras_predict(out: Path, tiles: np.ndarray) -> tuple[float, float, np.ndarray, float]:
    """`keras.Model.predict` in float32 on the tiles' crops, batches of eight; the mean over a tile's crops.

    Last: floating point operations of the convolutions of a crop.
    """
    from scoring_model import _build

    network = _build(512)
    network.model.load_weights(out / "bench.weights.h5")
    crops = tiles.reshape(-1, 2, 512, 2, 512, 3).transpose(0, 1, 3, 2, 4, 5).reshape(-1, 512, 512, 3)
    network.model.predict(crops[:8], batch_size=8, verbose=0)
    wall, core, answer = timed(lambda: network.model.predict(crops, batch_size=8, verbose=0))
    return wall, core, answer["ki67"].reshape(-1, 4).mean(axis=1), _operations(network.model)


def _operations(model: Any) -> float:
    inner = next(layer for layer in model.layers if hasattr(layer, "layers"))
    convolutions = [layer for layer in inner.layers if type(layer).__name__ == "Conv2D"]
    return float(sum(2 * np.prod(c.output.shape[1:]) * np.prod(c.kernel.shape[:3]) for c in convolutions))


def matrix_rate(dtype: str, side: int = 2048) -> float:
    """Operations per core second of the processor's own product of two matrices, one thread: the floor."""
    import tensorflow as tf

    a = tf.cast(tf.random.normal((side, side)), dtype)
    tf.matmul(a, a)
    _, core, _ = timed(lambda: [tf.matmul(a, a).shape for _ in range(8)], repeats=3)
    return 8 * 2 * side**3 / core


def keras_alone(out: Path, tiles: np.ndarray) -> tuple[float, float, np.ndarray, float]:
    """`keras_predict` in a process of its own: there TensorFlow has the threads that it takes by itself."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(keras_predict, out, tiles).result()


def over(predictor: Any, tiles: np.ndarray, batch: int) -> np.ndarray:
    """The answers, asked for as scoring asks: as many calls at once as the predictor wants."""
    starts = range(0, len(tiles), batch)
    with ThreadPoolExecutor(predictor.in_flight) as pool:
        parts = pool.map(lambda i: predictor.predict(tiles[i : i + batch])["ki67"], starts)
        return np.concatenate(list(parts))


def networks(out: Path, model: Path, tiles: np.ndarray) -> dict[str, float]:
    """Crops per core second of every engine, and parity; returns wall seconds a tile."""
    crops = 4 * len(tiles)
    wall, core, keras_answer, operations = keras_alone(out, tiles)
    base = crops / core
    rows: dict[str, float] = {}
    print(
        f"\nNetwork alone, {crops} crops of 512 px     crops/core-s  × keras  crops/s   largest tile, mean difference"
    )
    print(f"{'keras.Model.predict float32':40} {base:10.2f}     1.00 {crops / wall:8.2f}")
    for dtype in ("float32", "bfloat16"):
        rate = matrix_rate(dtype)
        print(
            f"{'floor: matrix product, ' + dtype:40} {rate / operations:10.2f} {rate / operations / base:8.2f}"
            f"          {rate / 1e9:.0f} of {operations / 1e9:.1f} GFLOP a crop"
        )
    reference: np.ndarray | None = None
    for name, options in ENGINES.items():
        settings = ScoringSettings(**options)
        if options.get("engine") == "openvino":
            from virtual_stain.scoring.openvino_engine import OpenVinoPredictor

            predictor: LocalPredictor = OpenVinoPredictor(model, settings)
        else:
            predictor = LocalPredictor(model, settings)
            predictor._function = predictor._fast or predictor._reference  # measured whatever its check would say
        over(predictor, tiles[:4], 1)
        wall, core, answer = timed(lambda p=predictor: over(p, tiles, 1))
        if reference is None:
            reference = answer
            print(f"{'':40} frozen graph against Keras: {np.abs(answer - keras_answer).max():.1e}")
        rows[name] = wall / len(tiles)
        print(
            f"{name:40} {crops / core:10.2f} {crops / core / base:8.2f} {crops / wall:8.2f}"
            f"   {np.abs(answer - reference).max():.5f} {abs(answer.mean() - reference.mean()):.5f}"
        )
    print(f"readings of these tiles: {reference.min():.3f} to {reference.max():.3f}")  # type: ignore[union-attr]
    return rows


def command(slide: Path, model: str, out: Path, *options: str) -> dict[str, float]:
    """Runs `vstain score`; wall seconds, seconds to the first tile, peak memory in GB, tiles."""
    arguments = [sys.executable, "-m", "virtual_stain.cli.main"]
    code = "import sys; from virtual_stain.cli.main import run; run(sys.argv[1:])"
    arguments = [sys.executable, "-c", code, "score", str(slide), "--model", model, "--out", str(out)]
    arguments += ["--force", "-v", "--jobs", "2", *options]
    start, first = time.perf_counter(), 0.0
    process = subprocess.Popen(
        ["/usr/bin/time", "-f", "maxrss %M core %U %S", *arguments], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if "first tiles scored" in line:
            first = time.perf_counter() - start
    if process.wait():
        raise SystemExit("".join(lines))
    wall = time.perf_counter() - start
    rss, user, system = re.findall(r"maxrss (\d+) core ([\d.]+) ([\d.]+)", "".join(lines))[-1]
    report = json.loads((out / f"{slide.stem}.report.json").read_text())
    return {
        "wall": wall,
        "first": first,
        "gb": float(rss) / 1e6,
        "core": float(user) + float(system),
        "tiles": report["tiles"]["scored"],
        "network": report["timing"]["network_s"],
        "ratio": report["readings"]["ki67"]["global_ratio"] or float("nan"),
        "engine": report["engine"],
    }


def whole(slide: Path, model: Path, out: Path, kinds: list[str]) -> None:
    """The command beside the network on the same crops, in the same minutes; and on a slide of one window."""
    tiny = out / "one_window.tif"
    if not tiny.exists():
        write_jpeg_tiff(tiny, Mirrored(np.load(out / "picture.npy"), Size(1232, 1232)))
    tiles = some_tiles(slide, 16)
    print("\nWhole command        tiles    wall, core s  network alone  ratio wall, core  first tile s  peak GB  by")
    for kind in kinds:
        precision = ENGINES[kind]["precision"]
        option = ("--set", f"scoring.precision={precision}")
        predictor = LocalPredictor(model, ScoringSettings(precision=precision))
        predictor._function = predictor._fast or predictor._reference
        over(predictor, tiles[:2], 1)
        found = []
        for file in (slide, tiny):
            before, before_core, _ = timed(lambda p=predictor: over(p, tiles, 1))
            done = command(file, str(model), out / "results", *option)
            after, after_core, _ = timed(lambda p=predictor: over(p, tiles, 1))
            count = int(done["tiles"])
            alone, core = ((a + b) / 2 / len(tiles) * count for a, b in ((before, after), (before_core, after_core)))
            print(
                f"{kind:20} {count:5} {done['wall']:7.1f} {done['core']:7.1f} {alone:6.1f} {core:7.1f}"
                f" {done['wall'] / alone:8.2f} {done['core'] / core:7.2f} {done['first']:14.1f} {done['gb']:8.2f}"
                f"  {done['engine'].get('precision')}",
                flush=True,
            )
            found.append((count, done["core"], core / count))
        (many, whole_core, tile_core), (few, least_core, _) = found
        each = (whole_core - least_core) / (many - few)
        fixed, at_1000 = least_core - few * each, 1000 * tile_core
        print(
            f"{'':20} by the two sizes: {fixed:.1f} core s fixed, {each / tile_core:.3f} × the network a tile;"
            f" 1,000 tiles: {(fixed + 1000 * each) / at_1000:.3f} ×"
        )


def served(model: Path, tiles: np.ndarray) -> None:
    """Throughput through a server in a process of its own, beside the same network here."""
    from virtual_stain.scoring.open_model import open_predictor

    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(model)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        addresses = process.stdout.readline().split()
        local = LocalPredictor(model, ScoringSettings(precision="float32"))
        over(local, tiles[:4], 4)
        wall, _, reference = timed(lambda: over(local, tiles, 4), repeats=2)
        print(f"\nServed, {len(tiles)} tiles, float32     tiles/s  × local  largest difference")
        print(f"{'local':28} {len(tiles) / wall:8.3f}     1.00")
        for address in addresses:
            predictor = open_predictor(address, ScoringSettings(server_requests=2))
            over(predictor, tiles[:4], 4)
            batches = [tiles[i : i + 4] for i in range(0, len(tiles), 4)]

            def ask(p: Any = predictor, parts: list[np.ndarray] = batches) -> np.ndarray:
                with ThreadPoolExecutor(2) as pool:
                    return np.concatenate([a["ki67"] for a in pool.map(p.predict, parts)])

            seconds, _, answer = timed(ask, repeats=2)
            print(
                f"{address.partition(':')[0]:28} {len(tiles) / seconds:8.3f} {wall / seconds:8.2f}"
                f"  {np.abs(answer - reference).max():.1e}"
            )
    finally:
        process.kill()
        process.wait()


@click.command()
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder that keeps slide and model.")
@click.option("--columns", default=12, show_default=True, help="Windows beside and below each other.")
@click.option("--tiles", "n_tiles", default=16, show_default=True, help="For the network alone.")
@click.option("--steps", default=200, show_default=True, help="Of the small training.")
@click.option("--part", type=click.Choice(["all", "network", "whole", "served"]), default="all", show_default=True)
@click.option("--engine", "kinds", multiple=True, default=["TensorFlow bfloat16", "TensorFlow float32"])
def main(out: Path, columns: int, n_tiles: int, steps: int, part: str, kinds: tuple[str, ...]) -> None:
    """Prints the tables."""
    start_tensorflow()
    slide, model = prepare(out, columns, steps)
    if part in ("all", "network"):
        networks(out, model, some_tiles(slide, n_tiles))
    if part in ("all", "whole"):
        whole(slide, model, out, list(kinds))
    if part in ("all", "served"):
        served(model, some_tiles(slide, 16))


if __name__ == "__main__":
    main()
