"""int8 on OpenVINO with calibration tiles: how fast, and how far its readings are from float32's.

pip install openvino nncf
python tools/bench/bench_int8.py --out DIR      # DIR of bench_score.py, with its model and a slide

The answer so far is no (docs/performance.md): this shows it again, should quantization get better.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import click
import nncf
import numpy as np
import openvino
from bench_score import some_tiles
from tensorflow.python.framework.function_def_to_graph import function_def_to_graph

from virtual_stain.scoring.bfloat16 import find_network
from virtual_stain.scoring.engine_check import MAX_MEAN_DIFFERENCE, MAX_TILE_DIFFERENCE
from virtual_stain.scoring.openvino_engine import crop_grid
from virtual_stain.scoring.signature import read_saved_model, signature_graph

CROP_PX, CROPS = 512, 4


def network(model: Path) -> tuple[Any, int]:
    """The bundle's network for OpenVINO, and the position of its fraction among the outputs."""
    graph = signature_graph(read_saved_model(model / "1"), "uint8", "describe")
    frozen = function_def_to_graph(find_network(graph))
    converted = openvino.convert_model(frozen)
    converted.reshape([1, CROP_PX, CROP_PX, 3])
    fraction = frozen.outputs[0].name  # in the order of their names: ki67, ki67_tumour_cells
    return converted, next(i for i, o in enumerate(converted.outputs) if fraction in o.get_names())


def read(model: Any, position: int, precision: str, crops: np.ndarray) -> tuple[np.ndarray, float]:
    """A fraction for every tile, and crops per core second, in one thread."""
    options = {"INFERENCE_PRECISION_HINT": precision, "NUM_STREAMS": "1", "INFERENCE_NUM_THREADS": "1"}
    request = openvino.Core().compile_model(model, "CPU", options).create_infer_request()
    request.infer([crops[:1]])
    core, found = time.process_time(), []
    for crop in crops:
        request.infer([crop[None]])
        found.append(float(request.get_output_tensor(position).data.reshape(())))
    return np.array(found).reshape(-1, CROPS).mean(axis=1), len(crops) / (time.process_time() - core)


@click.command()
@click.option("--out", required=True, type=click.Path(path_type=Path, exists=True), help="Folder of bench_score.py.")
@click.option("--columns", default=20, show_default=True, help="Of its slide.")
@click.option("--tiles", "n_tiles", default=16, show_default=True, help="To compare.")
@click.option("--calibration", default=25, show_default=True, help="Tiles that the quantization sees; others.")
def main(out: Path, columns: int, n_tiles: int, calibration: int) -> None:
    """Prints the table."""
    crops = crop_grid(some_tiles(out / f"slide_{columns}.tif", n_tiles + calibration), CROP_PX)
    test, seen = crops[: n_tiles * CROPS], crops[n_tiles * CROPS :]
    model, position = network(out / "model")
    reference, speed = read(model, position, "f32", test)
    print(f"bounds: a tile {MAX_TILE_DIFFERENCE}, the mean {MAX_MEAN_DIFFERENCE}")
    print(f"{'float32':36} {speed:6.2f} crops per core second")
    for preset in (nncf.QuantizationPreset.PERFORMANCE, nncf.QuantizationPreset.MIXED):
        for fast in (True, False):
            data = nncf.Dataset(list(seen), lambda crop: crop[None])
            small = nncf.quantize(model.clone(), data, preset=preset, fast_bias_correction=fast, subset_size=len(seen))
            answer, speed = read(small, position, "f32", test)
            gap = answer - reference
            name = f"int8, {preset.value}, {'fast' if fast else 'full'} bias correction"
            print(f"{name:36} {speed:6.2f}  largest {np.abs(gap).max():.4f}, mean {abs(gap.mean()):.4f}", flush=True)


if __name__ == "__main__":
    main()
