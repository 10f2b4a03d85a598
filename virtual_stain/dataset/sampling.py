"""How often each tile is drawn in an epoch: once, at random with replacement, or balanced over ratios or patients.

An epoch always holds as many draws as there are tiles, so step t is at the same place of the data whatever is chosen.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from virtual_stain.records.manifest import PairEntry, shard_paths
from virtual_stain.records.read import as_written, parse_example, shard_dataset
from virtual_stain.remote import Location

RATIO_EDGES = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)
"""Bins of the label that get equal weight when balanced by ratio; finer where clinical cut-offs lie."""
_MOST_OFTEN = 8.0
"""No tile is drawn more than this many times as often as on average: one odd tile must not fill the batches."""


def tile_weights(folder: Location, pairs: Sequence[PairEntry], balance: str) -> npt.NDArray[np.float64] | None:
    """float64[N], mean 1: how often the tiles, in the manifest's order, are drawn; None: all equally often.

    `balance`: "none", "patient" (every patient equally often) or "ratio" (every bin of the label; tiles without a
    label keep their share; also where the value is a count, the bins are of positive cells among tumour cells). "ratio"
    reads every label once.
    """
    if balance == "none":
        return None
    if balance == "patient":
        names = np.repeat([p.patient_id for p in pairs], [p.n_records for p in pairs])
    else:
        names = _ratio_bins(folder, pairs)
    kinds, place, counts = np.unique(names, return_inverse=True, return_counts=True)
    share = np.full(len(kinds), 1.0)
    unlabelled = kinds == "" if balance == "ratio" else np.zeros(len(kinds), bool)
    # tiles without a label train the number of cells only: as many of them as there are
    kept = counts[unlabelled].sum() / counts.sum()
    share[~unlabelled] = (1 - kept) / max(int((~unlabelled).sum()), 1)
    share[unlabelled] = kept
    return _capped((share / counts)[place] * len(names))


def _capped(weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The weights with mean 1 and none above the most: what is cut off goes to the others, in proportion."""
    result = weights / weights.mean()
    fixed = np.zeros(len(result), bool)
    while (over := result > _MOST_OFTEN * (1 + 1e-9)).any():
        fixed |= over
        result[fixed] = _MOST_OFTEN
        result[~fixed] *= (len(result) - _MOST_OFTEN * fixed.sum()) / result[~fixed].sum()
    return result


def _ratio_bins(folder: Location, pairs: Sequence[PairEntry]) -> npt.NDArray[np.str_]:
    keys = ("label/positive", "label/negative", "label/weight")

    def label(data: tf.Tensor) -> tuple[tf.Tensor, ...]:
        record = parse_example(data, keys)  # its keys are sorted, so they are asked for by name
        return tuple(tf.cast(record[key], tf.float64) for key in keys)

    labels = shard_dataset([str(p) for p in shard_paths(folder, pairs)])
    labels = labels.map(as_written(label), num_parallel_calls=tf.data.AUTOTUNE).batch(4096)
    positive, negative, weight = np.concatenate([np.stack([v.numpy() for v in b], axis=1) for b in labels]).T
    ratio = positive / np.maximum(positive + negative, 1)
    bins = np.searchsorted(RATIO_EDGES[1:-1], ratio, side="right").astype(str)
    return np.where(weight > 0, bins, "")


def draws_of_epoch(
    weights: npt.NDArray[np.float64] | None, n_tiles: int, epoch_seed: tf.Tensor, *, replacement: bool
) -> tf.Tensor:
    """int64[N]: draws of each tile in one epoch, N in all. Graph function of the seed int64[2] alone.

    Without replacement a tile with weight w is drawn ⌊w⌋ or ⌈w⌉ times (systematic sampling in random order; Madow
    1949), so with equal weights every tile once; with replacement each draw is independent.
    """
    w = tf.ones([n_tiles], tf.float64) if weights is None else tf.constant(weights, tf.float64)
    seeds = tf.unstack(tf.random.split(epoch_seed, 2))
    if replacement:
        drawn = tf.random.stateless_categorical(tf.math.log(w)[None, :], n_tiles, seeds[0], tf.int64)[0]
        return tf.math.bincount(drawn, minlength=n_tiles, maxlength=n_tiles, dtype=tf.int64)
    order = tf.argsort(tf.random.stateless_uniform([n_tiles], seeds[0], dtype=tf.float64))
    ends = tf.cumsum(tf.gather(w, order))
    ends = tf.concat([ends[:-1], [tf.cast(n_tiles, tf.float64)]], axis=0)  # rounding must not lose the last draw
    offset = tf.random.stateless_uniform([], seeds[1], dtype=tf.float64)
    passed = tf.cast(tf.floor(ends + offset), tf.int64)
    counts = passed - tf.concat([[tf.constant(0, tf.int64)], passed[:-1]], axis=0)
    return tf.scatter_nd(order[:, None], counts, [n_tiles])
