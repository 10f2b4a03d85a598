"""Is it the tissue or the procedure? With permuted labels nothing may be left to read.

The head is refitted (linear regression) on the frozen pooled features of the training tiles, with the labels of all
training tiles permuted, and read on held-out tiles. A pipeline that leaks the label in any way still "predicts" then.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from virtual_stain.dataset.shards import verify_shards
from virtual_stain.dataset.split import recorded_split
from virtual_stain.errors import InputError
from virtual_stain.evaluation.predict import Column, tile_features
from virtual_stain.records.manifest import read_manifest
from virtual_stain.remote import Location
from virtual_stain.training.metrics import mean_within, pearson
from virtual_stain.training.run_dir import TrainedRun

_COMPONENTS = 64
_TILES_A_COMPONENT = 5
_MAX_TILES = 1000  # more change nothing but the time


@dataclass(frozen=True, slots=True)
class PermutationCheck:
    """Pearson r of held-out tiles, mean over the held-out patients."""

    true_labels_r: float | None
    """The same refit with the labels where they belong: what the check would have to lose."""
    permuted_r: tuple[float, ...]
    """One a refit."""

    @property
    def mean_r(self) -> float:
        return float(np.mean(self.permuted_r))


def permutation_check(run: TrainedRun, records: Location, n_refits: int = 20, seed: int = 0) -> PermutationCheck:
    """Refits the head `n_refits` times on permuted labels of all training tiles, reads the held-out test fold.

    Raises InputError when nothing can be correlated.
    """
    split = recorded_split(read_manifest(records), int(run.data["fold"]), run.data["patients"])
    verify_shards(records, split.train + split.test)
    x, y, _ = tile_features(run, records, split.train, _MAX_TILES)
    held_x, held_y, patients = tile_features(run, records, split.test)
    rng = np.random.default_rng(seed)
    targets = np.stack([y, *(rng.permutation(y) for _ in range(n_refits))], axis=1)
    read = head_readings(x, targets, held_x)
    r = [mean_within(patients, held_y, read[:, i], pearson) for i in range(n_refits + 1)]
    permuted = [value for value in r[1:] if value is not None]
    if len(permuted) < n_refits:
        raise InputError(f"{records}: expected held-out tiles to correlate. Received: too few, or a constant label.")
    return PermutationCheck(r[0], tuple(permuted))


def head_readings(x: Column, targets: Column, held_x: Column) -> Column:
    """Least squares of float64[N, T] targets on the leading principal components of float64[N, F] features.

    Returns readings float64[M, T] of held_x float64[M, F]. Trained features vary mostly along the one direction that
    the network has learned; on the raw features every refit, of noise too, reads plus or minus that direction, and
    the mean of 20 such signs says little. Least squares does not know the length of a component, so noise spreads
    over all of them.
    """
    mean, spread = x.mean(axis=0), x.std(axis=0)
    varying = spread > 1e-6 * max(float(spread.max()), 1e-30)
    a, b = (x[:, varying] - mean[varying]) / spread[varying], (held_x[:, varying] - mean[varying]) / spread[varying]
    u, s, vt = np.linalg.svd(a, full_matrices=False)
    kept = min(_COMPONENTS, max(1, len(x) // _TILES_A_COMPONENT), int((s > 1e-6 * s[0]).sum()))
    coefficients = u[:, :kept].T @ (targets - targets.mean(axis=0)) / s[:kept, None]
    result: Column = b @ vt[:kept].T @ coefficients + targets.mean(axis=0)
    return result
