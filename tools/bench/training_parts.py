"""Parts of the training benchmark: records of a phantom, a step of a configuration, memory, peak FLOP/s."""

from __future__ import annotations

import hashlib
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf

from virtual_stain.config import Config
from virtual_stain.config.phantom import PhantomSettings
from virtual_stain.dataset.pipeline import CropSpec
from virtual_stain.markers import Marker
from virtual_stain.model.build import BuildOptions, build_network
from virtual_stain.model.precision import resolve_precision
from virtual_stain.phantom.cohort import write_cohort
from virtual_stain.records.manifest import (
    Manifest,
    PairEntry,
    RegistrationEntry,
    ShardEntry,
    TilingEntry,
    read_manifest,
)
from virtual_stain.training.recipes import make_recipe
from virtual_stain.training.step import Batch, LossWeights, TrainStep
from virtual_stain.workflows.build_records import BuildOptions as RecordOptions
from virtual_stain.workflows.build_records import build_records

MARKERS = (Marker.KI67,)


def phantom_records(folder: Path) -> Manifest:
    """Four small pairs as 1024-px tiles; made once."""
    records = folder / "records"
    if not (records / "manifest.json").is_file():
        write_cohort(folder / "slides", PhantomSettings(pairs=4, size_mm=1.4, seed=5))
        build_records(folder / "slides" / "pairs.csv", records, Config(), RecordOptions(accept_unreviewed=True, jobs=2))
    return read_manifest(records)


def crop_spec(manifest: Manifest, crop_px: int) -> CropSpec:
    return CropSpec(markers=MARKERS, tile_px=manifest.tiling.tile_px, crop_px=crop_px)


def new_step(config: Config) -> Callable[[Batch], tf.Tensor]:
    """One optimizer step of a configuration, waited for."""
    settings = config.training
    recipe = make_recipe(settings, 1000.0)
    options = BuildOptions(
        seed=1, precision=resolve_precision(settings.precision), freeze_batch_norm=recipe.freeze_batch_norm
    )
    network = build_network(config.model, MARKERS, options)
    loss = LossWeights(settings.min_crop_cells, settings.max_crop_cells, settings.cells_loss_weight / 50)
    step = TrainStep(network, settings, loss, config.augment)
    step.use(recipe.phases[0].new_optimizer, head_only=False)

    def run(batch: Batch) -> tf.Tensor:
        known = {name: value for name, value in batch.items() if name not in ("tile", "origin")}
        result = step.run(known, settings.micro_batches, recipe.phases[0].learning_rate(0), 0.99)
        result.numpy()
        return result

    return run


def timed(function: Callable[[], object], repeats: int) -> list[float]:
    """Wall seconds of each call."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return seconds


def resident_mb() -> float:
    """Resident memory of this process now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 1e6


def peak_mb() -> float:
    """The most that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def peak_flops(dtype: tf.DType, side: int = 3072) -> float:
    """FLOP/s of one large matrix product, the best of five: what the machine gives when nothing else is in the way."""
    a = tf.cast(tf.random.normal([side, side]), dtype)
    product = tf.function(lambda: tf.reduce_sum(tf.cast(tf.matmul(a, a), tf.float32)))
    product()
    return 2 * side**3 / min(timed(lambda: product().numpy(), 5))


def large_manifest(n_pairs: int = 400, tiles_a_pair: int = 250) -> Manifest:
    """A manifest of 100,000 tiles."""

    def digest(text: str) -> str:
        return hashlib.sha256(text.encode()).hexdigest()

    def shards(pair: int) -> Iterator[ShardEntry]:
        for index in range(2):
            name = f"p{pair}-{index:05d}-of-00002.tfrecord"
            yield ShardEntry(name, digest(name), 150_000_000, tiles_a_pair // 2)

    pairs = tuple(
        PairEntry(
            pair=f"p{i}",
            patient_id=digest(f"patient {i}"),
            marker="ki67",
            fold=i % 5,
            he_content_sha256=digest(f"he {i}"),
            ihc_content_sha256=digest(f"ihc {i}"),
            n_records=tiles_a_pair,
            n_ratio=tiles_a_pair,
            positive=5_000,
            negative=20_000,
            registration=RegistrationEntry(5.0, 15.0, "accept"),
            shards=tuple(shards(i)),
        )
        for i in range(n_pairs)
    )
    return Manifest(
        tiling=TilingEntry(307.2, 307.2, 1024),
        value_definition="positive_ratio",
        markers=("ki67",),
        n_folds=5,
        min_tumour_cells=50,
        patient_key_fingerprint="0" * 16,
        accept_unreviewed=False,
        pairs=pairs,
    )


def median(values: list[float]) -> float:
    return float(np.median(values))
