"""Crops per core second that InceptionV3 reads when it ends early: one line for each `model.trunk_end`.

    taskset -c 1 python tools/bench/bench_trunks.py [--crop-px 128] [--rounds 5]

The frozen graph of `vstain export` with a dense head, in float32, on one thread, 16 crops a call. The least processor
time of several rounds counts, and rounds of all ends alternate, so that other programs disturb all of them alike.
Weights are random: they do not change the time.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import click
import numpy as np

ENDS = ("mixed0", "mixed2", "mixed5", "mixed7", "mixed10")
CROPS = 16


@click.command()
@click.option("--crop-px", default=128, show_default=True)
@click.option("--rounds", default=5, show_default=True)
def main(crop_px: int, rounds: int) -> None:
    """See the top of the file."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    from virtual_stain.config.training import ModelSettings
    from virtual_stain.exporting.inference_graph import freeze_network
    from virtual_stain.markers import Marker
    from virtual_stain.model.build import BuildOptions, build_network

    crops = tf.constant(np.random.default_rng(0).integers(0, 256, (CROPS, crop_px, crop_px, 3), np.uint8))
    graphs, parameters = {}, {}
    for end in ENDS:
        settings = ModelSettings(weights="none", head="dense", trunk_end=end, crop_px=crop_px)
        network = build_network(settings, (Marker.KI67,), BuildOptions(seed=7))
        parameters[end] = network.model.count_params()
        model = network.model
        graphs[end] = freeze_network(lambda tiles, model=model: model(tiles, training=False), crop_px)
        graphs[end](crops, training=False)
    least = dict.fromkeys(ENDS, float("inf"))
    for _ in range(rounds):
        for end, graph in graphs.items():
            start = time.process_time()
            {name: value.numpy() for name, value in graph(crops, training=False).items()}
            least[end] = min(least[end], time.process_time() - start)
    print(f"{crop_px}-px crops, float32, one thread, least of {rounds} rounds")
    print(f"{'trunk_end':10} {'parameters':>12} {'ms a crop':>10} {'crops per core s':>17} {'× mixed10':>10}")
    for end in ENDS:
        ms = 1000 * least[end] / CROPS
        print(f"{end:10} {parameters[end]:12,} {ms:10.1f} {1000 / ms:17.1f} {least['mixed10'] / least[end]:10.1f}")


if __name__ == "__main__":
    main()
