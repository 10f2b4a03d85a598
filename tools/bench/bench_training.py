"""Training's costs beside their floors; each part by itself, because some take minutes.

python tools/bench/bench_training.py all --work /tmp/bench          (pipeline, step, memory, manifest)
python tools/bench/bench_training.py full-step                      (the source's configuration: minutes, 10 GB)
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import click
import tensorflow as tf
from training_parts import (
    crop_spec,
    large_manifest,
    median,
    new_step,
    peak_flops,
    peak_mb,
    phantom_records,
    resident_mb,
    timed,
)

from virtual_stain.config import load_config
from virtual_stain.dataset.augment import N_DRAWS
from virtual_stain.dataset.pipeline import TrainingOrder, training_batches
from virtual_stain.records.manifest import read_manifest, shard_paths, write_manifest
from virtual_stain.records.read import iterate_shard

GFLOP_A_512_CROP = 105.0
"""Forward and backward (docs/training.md)."""
_REDUCED = ("model.weights=none", "model.batch_norm_momentum=0.9", "training.recipe=scratch")


@click.group()
def main() -> None:
    """One table a part."""


def _batches(work: Path, crop_px: int, batch: int) -> tf.data.Dataset:
    manifest = phantom_records(work)
    order = TrainingOrder(batch_size=batch, seed=1, shuffle_tiles=256, augment=load_config(None, ()).augment)
    # the few shards many times over: an epoch as long as a real one, or its beginning would be all that is timed
    pairs = manifest.pairs * 50
    return training_batches(work / "records", pairs, crop_spec(manifest, crop_px), order)


def _bare(work: Path, crop_px: int, batch: int) -> tf.data.Dataset:
    """decode_and_crop_jpeg and nothing else, on the same tiles, held in memory, with as many threads."""
    manifest = phantom_records(work)
    paths = shard_paths(work / "records", manifest.pairs)
    tiles = tf.constant([r["image/encoded"] for path in paths for r in iterate_shard(path)])
    last = manifest.tiling.tile_px - crop_px

    def crop(index: tf.Tensor) -> tf.Tensor:
        y, x = tf.unstack(tf.random.stateless_uniform([2], tf.stack([index, 7]), 0, last + 1, tf.int32))
        data = tiles[index % len(tiles)]
        window = [y, x, crop_px, crop_px]
        return tf.io.decode_and_crop_jpeg(data, window, channels=3, dct_method="INTEGER_ACCURATE")

    endless = tf.data.Dataset.range(1 << 40)
    return endless.map(crop, num_parallel_calls=tf.data.AUTOTUNE).batch(batch).prefetch(2)


def _cost(batches: Iterator[object], n: int, batch: int) -> tuple[float, float]:
    """Wall seconds and processor seconds a crop; the latter hardly depend on what else the machine does."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in itertools.islice(batches, n):
        pass
    return (time.perf_counter() - wall) / n / batch, (time.process_time() - cpu) / n / batch


@main.command("pipeline")
@click.option("--work", type=click.Path(path_type=Path), required=True)
@click.option("--rounds", default=7, show_default=True)
def pipeline(work: Path, rounds: int) -> None:
    """512-px crops of 1024-px tiles a second: the training pipeline against bare decoding, in turn."""
    ours, bare = iter(_batches(work, 512, 16)), iter(_bare(work, 512, 16))
    for batches in (ours, bare):
        _cost(batches, 30, 16)  # the number of threads is found while it runs
    costs = [(_cost(ours, 30, 16), _cost(bare, 30, 16)) for _ in range(rounds)]
    for kind, name in enumerate(("wall", "processor")):
        own, floor = (median([pair[side][kind] for pair in costs]) for side in (0, 1))
        ratio = median([b[kind] / a[kind] for a, b in costs])
        click.echo(
            f"{name} time a crop: pipeline {own * 1e3:.2f} ms, bare decoding {floor * 1e3:.2f} ms; "
            f"speed ratio {ratio:.3f} (median of {rounds}; goal >= 0.90)"
        )


@main.command("step")
@click.option("--work", type=click.Path(path_type=Path), required=True)
@click.option("--rounds", default=5, show_default=True)
def step(work: Path, rounds: int) -> None:
    """InceptionV3 on 16 crops of 128 px: a step with real data against one with a constant batch, in turn."""
    config = load_config(None, (*_REDUCED, "model.crop_px=128", "training.batch_size=16"))
    run, batches = new_step(config), iter(_batches(work, 128, 16))
    constant = next(batches)
    timed(lambda: run(constant), 3)
    pairs = []
    for _ in range(rounds):
        real = median(timed(lambda: run(next(batches)), 8))
        pairs.append((real, median(timed(lambda: run(constant), 8))))
    click.echo(f"step {median([a for a, _ in pairs]):.3f} s, constant batch {median([b for _, b in pairs]):.3f} s")
    click.echo(f"ratio {median([a / b for a, b in pairs]):.3f} (median of {rounds}; goal <= 1.05)")


@main.command("memory")
@click.option("--work", type=click.Path(path_type=Path), required=True)
@click.option("--steps", default=10_000, show_default=True)
def memory(work: Path, steps: int) -> None:
    """Resident memory over many steps of a tiny network."""
    config = load_config(None, ("model.kind=small_cnn", *_REDUCED, "model.crop_px=32", "training.batch_size=4"))
    run, batches = new_step(config), iter(_batches(work, 32, 4))
    for done in range(1, steps + 1):
        run(next(batches))
        if done in (steps // 10, steps // 4, steps // 2, steps):
            click.echo(f"after {done} steps: {resident_mb():.0f} MB resident")


@main.command("manifest")
def manifest() -> None:
    """Opening a manifest of 100,000 tiles."""
    with tempfile.TemporaryDirectory() as name:
        write_manifest(Path(name), large_manifest())
        seconds = median(timed(lambda: read_manifest(Path(name)), 5))
    click.echo(f"manifest of 100,000 tiles: {seconds:.2f} s (goal <= 2)")


@main.command("full-step")
@click.option("--micro-batch", default=4, show_default=True, help="Crops at a time.")
@click.option("--precision", default="auto", show_default=True)
@click.option("--config", default="configs/ki67.toml", show_default=True, type=click.Path(path_type=Path))
def full_step(micro_batch: int, precision: str, config: Path) -> None:
    """One step of the source's configuration: 64 crops of 512 px, by accumulation."""
    sets = ("model.weights=none", f"training.micro_batch_size={micro_batch}", f"training.precision={precision}")
    settings = load_config(config, sets)
    size, side = settings.training.batch_size, settings.model.crop_px
    run = new_step(settings)
    batch = {
        "crop": tf.cast(tf.random.uniform([size, side, side, 3], 0, 256, tf.int32, seed=1), tf.uint8),
        "positive": tf.fill([size, 1], 20.0),
        "cells": tf.fill([size, 1], 100.0),
        "trusted": tf.ones([size, 1]),
        "usable": tf.ones([size, 1]),
        "draws": tf.random.uniform([size, N_DRAWS], seed=2),
    }
    first, second = timed(lambda: run(batch), 2)
    work = size * GFLOP_A_512_CROP * 1e9
    click.echo(
        f"step of {size} crops, {micro_batch} at a time: {second:.1f} s (the first, with tracing: {first:.1f} s)"
    )
    click.echo(f"peak memory {peak_mb():.0f} MB (goal <= 12,000)")
    for dtype in (tf.float32, tf.bfloat16):
        rate = peak_flops(dtype)
        click.echo(
            f"floor in {dtype.name}: {work / rate:.1f} s ({work / 1e12:.1f} TFLOP at {rate / 1e9:.0f} GFLOP/s of a "
            f"large matrix product); the step is {second * rate / work:.1f} x that"
        )


@main.command("all")
@click.option("--work", type=click.Path(path_type=Path), required=True)
@click.pass_context
def everything(context: click.Context, work: Path) -> None:
    """pipeline, step, memory, manifest."""
    context.invoke(pipeline, work=work, rounds=7)
    context.invoke(step, work=work, rounds=5)
    context.invoke(memory, work=work, steps=10_000)
    context.invoke(manifest)


if __name__ == "__main__":
    main()
