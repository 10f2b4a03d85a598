"""A support-vector regression on the pooled features of a network that is not trained (CN 114387243 A [0106]).

The features of every crop of the training tiles are computed once; scikit-learn fits two regressions a marker, and what
it found becomes layers of the network, so that evaluation, export and scoring know no difference. Cost C and width γ
are those of the smallest validation loss.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from virtual_stain.dataset.pipeline import tile_batches
from virtual_stain.dataset.shards import reading_errors
from virtual_stain.errors import ConfigError, InputError
from virtual_stain.installation import install_command
from virtual_stain.model.build import BuildOptions, Network, build_network
from virtual_stain.model.heads import LOG_CELLS, LOGIT
from virtual_stain.model.tile_reading import PADDING_MIN, crop_grid
from virtual_stain.progress import Progress
from virtual_stain.records.manifest import PairEntry
from virtual_stain.training.checkpoint import named_values, write_checkpoint
from virtual_stain.training.history import History
from virtual_stain.training.inputs import RunInputs
from virtual_stain.training.run_dir import RunDir
from virtual_stain.training.validate import Validation, Validator

_COSTS = (0.3, 3.0, 30.0)
_WIDTHS = (0.3, 1.0)
"""γ = width / number of features: with standardized features the mean squared distance is twice that number."""
_EPSILON = 0.03
Floats = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, slots=True)
class _Crops:
    """Features and labels of N crops."""

    features: Floats
    positive: Floats
    cells: Floats
    trusted: Floats
    usable: Floats

    def some(self, index: npt.NDArray[np.intp]) -> _Crops:
        return _Crops(*(getattr(self, f.name)[index] for f in dataclasses.fields(self)))


def fit_svr(inputs: RunInputs, paths: RunDir, progress: Progress) -> dict[str, Any]:
    """Fits, validates and writes best.h5 and history.csv; returns the run's summary.

    Raises ConfigError without scikit-learn, ModelError (weights), InputError without labels.
    """
    _require_sklearn()
    start = time.monotonic()
    config = inputs.config
    base = dataclasses.replace(config.model, head="pooled")
    network = build_network(base, inputs.spec.markers, BuildOptions(seed=config.training.seed, value=inputs.value))
    crops = _read_crops(network, inputs, inputs.split.train, progress)
    best: tuple[Validation, Network, dict[str, int], tuple[float, float]] | None = None
    grid = list(itertools.product(_COSTS, _WIDTHS))
    for cost, width in progress.track(grid, len(grid), "Fitting support vectors", "fits"):
        fitted = _fit_all(crops, inputs, cost, width)
        support = {name: len(found["support"]) for name, found in fitted.items()}
        candidate = _with_support(inputs, network, fitted, support)
        found = _validate(candidate, inputs)
        progress.say(f"C {cost:g}, width {width:g}: validation loss {found.loss:.4f}, {support} support vectors")
        if best is None or found.loss < best[0].loss:
            best = found, candidate, support, (cost, width)
    assert best is not None
    found, chosen, support, (cost, width) = best
    state = {"step": 1, "validation_loss": found.loss, "validation": found.to_dict(), "support": support}
    write_checkpoint(paths.best, {"weights": named_values(chosen.model.weights)}, state)
    seconds = time.monotonic() - start
    with History(paths, 0) as history:
        history.validation(1, 1.0, seconds, found)
    return {
        "steps": 1,
        "best_step": 1,
        "best_validation_loss": found.loss,
        "seconds": round(seconds, 1),
        "precision": "float32",
        "devices": 1,
        "reason": f"the smallest validation loss, at C = {cost:g} and gamma = {width:g} / features",
    }


def _require_sklearn() -> None:
    try:
        import sklearn.svm  # noqa: F401
    except ImportError as error:
        raise ConfigError(f'model.head = "svr" needs scikit-learn: {error}', hint=install_command("svr")) from error


def _read_crops(network: Network, inputs: RunInputs, pairs: Sequence[PairEntry], progress: Progress) -> _Crops:
    """Every crop of prediction's grid that is not all padding; single-marker columns [N, markers]."""
    features = tf.function(lambda crops: network.features(crops, training=False), autograph=False)
    parts: list[list[npt.NDArray]] = []
    batch_tiles = inputs.validation_batch_tiles
    total = -(-sum(p.n_records for p in pairs) // batch_tiles)
    with reading_errors(inputs.records):
        batches = tile_batches(inputs.records, pairs, inputs.spec, batch_tiles)
        for batch in progress.track(batches, total, "Features of the training tiles", "batches"):
            crops = crop_grid(batch["tile"], inputs.spec.crop_px)
            shown = tf.reduce_any(crops < PADDING_MIN, axis=(1, 2, 3)).numpy()
            per_tile = batch["cells"].shape[1]
            flat = [tf.reshape(batch[n], (-1, batch["cells"].shape[2])).numpy() for n in ("positive", "cells")]
            flat += [np.repeat(batch[n].numpy(), per_tile, axis=0) for n in ("trusted", "usable")]
            parts.append([v[shown].astype(np.float64) for v in (features(crops).numpy(), *flat)])
    if not parts:
        raise InputError(f"{inputs.records}: no training tile could be read.")
    return _Crops(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _fit_all(crops: _Crops, inputs: RunInputs, cost: float, width: float) -> dict[str, dict[str, Any]]:
    settings = inputs.config.training
    rng = np.random.default_rng(settings.seed)
    result = {}
    for index, marker in enumerate(inputs.spec.markers):
        k, n = crops.positive[:, index], crops.cells[:, index]
        weight = np.minimum(n, settings.max_crop_cells) * (n >= settings.min_crop_cells) * crops.trusted[:, index]
        # a half cell on each side keeps 0 of n from being certain
        angle = np.arcsin(np.sqrt((k + 0.5) / (n + 1)))
        for suffix, y, w in (
            (LOGIT, angle, weight),
            (LOG_CELLS, np.log1p(n), crops.usable[:, index]),
        ):
            rows = np.flatnonzero(w > 0)
            if not len(rows):
                raise InputError(f"{inputs.records}: no training crop has a label of {marker.label}.")
            rows = np.sort(rng.permutation(rows)[: inputs.config.model.svr_crops])
            result[marker.value + suffix] = _fit_one(crops.features[rows], y[rows], w[rows], cost, width)
    return result


def _fit_one(x: Floats, y: Floats, weight: Floats, cost: float, width: float) -> dict[str, Any]:
    from sklearn.svm import SVR

    mean, spread = x.mean(axis=0), x.std(axis=0)
    scale = np.where(spread > 1e-6 * max(float(spread.max()), 1e-30), spread, 1.0)
    gamma = width / x.shape[1]
    found = SVR(C=cost, gamma=gamma, epsilon=_EPSILON, cache_size=500)
    found.fit((x - mean) / scale, y, sample_weight=weight / weight.mean())
    return {
        "mean": mean,
        "scale": scale,
        "support": found.support_vectors_,
        "coefficients": found.dual_coef_[0],
        "intercept": found.intercept_[0],
        "gamma": gamma,
    }


def _with_support(
    inputs: RunInputs, base: Network, fitted: dict[str, dict[str, Any]], support: dict[str, int]
) -> Network:
    """The network with the regressions in place of its head; its features are those that were fitted on."""
    options = BuildOptions(seed=inputs.config.training.seed, load_weights=False, support=support, value=inputs.value)
    network = build_network(inputs.config.model, inputs.spec.markers, options)
    for ours, theirs in zip(network.features.weights, base.features.weights, strict=True):
        ours.assign(theirs)
    for layer in network.head:
        for name, value in fitted[layer.name].items():
            getattr(layer, name).assign(value)
    return network


def _validate(network: Network, inputs: RunInputs) -> Validation:
    settings, split = inputs.config.training, inputs.split
    tiles = tile_batches(
        inputs.records,
        split.validation,
        inputs.spec,
        inputs.validation_batch_tiles,
        max_tiles=settings.validation_tiles,
    )
    with reading_errors(inputs.records):
        return Validator(network, inputs.loss, tiles).run()
