"""A copy of a record folder whose labels come from beside the tiles: what a registration error does to training.

python tools/shift_labels.py records/ shifted/ --um 60 --fold 0 --folds 3
vstain fit shifted/ --out run-shifted/ --config … && vstain evaluate run-shifted/

The cells of every pair are moved as a whole by so many µm in a direction of its own, and each tile's label is counted
anew from the cells that then lie in it. Pictures stay; the test fold keeps its labels; the validation fold is shifted
too, since it chooses the checkpoint. The folds of the copy are those that it was made for. Records whose windows
overlap hold a cell more than once and are refused.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click
import numpy as np

_NO_LABEL = {"poor_overlap", "blur_he", "blur_ihc", "stains_unclear"}
"""Flags of tiles whose ratio does not train, however many cells lie in them."""


@click.command()
@click.argument("records", type=click.Path(path_type=Path, exists=True))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--um", type=float, required=True, help="Length of the shift, µm.")
@click.option("--fold", default=0, show_default=True, help="Test fold, which keeps its labels.")
@click.option("--folds", default=None, type=int, help="Number of folds [default: the manifest's].")
@click.option("--seed", default=0, show_default=True)
def main(records: Path, out: Path, um: float, fold: int, folds: int | None, seed: int) -> None:
    """Writes OUT with shifted labels outside the test fold."""
    print(f"{out}: labels of {shift_labels(records, out, um, fold=fold, folds=folds, seed=seed)} pairs shifted.")


def shift_labels(records: Path, out: Path, um: float, *, fold: int = 0, folds: int | None = None, seed: int = 0) -> int:
    """See the top of the file; returns how many pairs were shifted. Raises OutputError, InputError."""
    from virtual_stain.dataset.folds import plan_folds
    from virtual_stain.errors import InputError, OutputError
    from virtual_stain.markers import ValueDefinition
    from virtual_stain.records.manifest import read_manifest, write_manifest
    from virtual_stain.records.read import iterate_shard
    from virtual_stain.records.write import write_shards

    if out.exists() and any(out.iterdir()):
        raise OutputError(f"{out}: expected a new or empty folder.")
    manifest = read_manifest(records)
    if manifest.tiling.stride_um < manifest.tiling.window_um:
        raise InputError(
            f"{records}: expected windows beside each other. Received: a window of {manifest.tiling.window_um:g} µm "
            f"every {manifest.tiling.stride_um:g} µm, so that a cell would be counted more than once.",
            hint="Build the records without tiling.stride_um.",
        )
    if not ValueDefinition(manifest.value_definition).is_ratio:
        raise InputError(
            f"{records}: expected records of a ratio. Received: {manifest.value_definition}.",
            hint="Cells that are shifted out of the recorded tiles are lost: a count would fall, a ratio does not.",
        )
    plan = plan_folds(manifest, folds)
    if not 0 <= fold < plan.n_folds:
        raise InputError(f"--fold: expected 0 to {plan.n_folds - 1}. Received: {fold}")
    manifest = plan.apply(manifest)  # folds made anew from the shifted labels would be other ones
    rng = np.random.default_rng(seed)
    entries, shifted = [], 0
    for pair in manifest.pairs:
        tiles = [r for s in pair.shards for r in iterate_shard(records / s.file)]
        angle = rng.uniform(0, 2 * np.pi)
        if pair.fold != fold:
            tiles = shifted_pair(tiles, um * np.array([np.cos(angle), np.sin(angle)]), manifest.min_tumour_cells)
            shifted += 1
        trusted = [r for r in tiles if r["label/weight"] > 0]
        entries.append(
            dataclasses.replace(
                pair,
                shards=write_shards(out, pair.pair, tiles, shard_bytes=150_000_000),
                n_ratio=len(trusted),
                positive=sum(r["label/positive"] for r in trusted),
                negative=sum(r["label/negative"] for r in trusted),
            )
        )
    write_manifest(out, dataclasses.replace(manifest, pairs=tuple(entries)))
    return shifted


def shifted_pair(tiles: list[dict], shift_um: np.ndarray, min_cells: int) -> list[dict]:
    """The records of one pair with every cell moved by (x, y) µm on the H&E slide."""
    origins, points, positive, corrected, told = [], [], [], [], []
    for tile in tiles:
        side_um = tile["tile/mpp"] * tile["image/width"]
        origin = tile["tile/x_px0"] / tile["tile/width_px0"], tile["tile/y_px0"] / tile["tile/height_px0"]
        origins.append(side_um * np.array(origin))
        xy = np.stack([tile["cells/x"], tile["cells/y"]], axis=1) if tile["cells/x"] else np.zeros((0, 2))
        points.append(origins[-1] + tile["tile/mpp"] * xy)
        positive += list(tile["cells/positive"])
        corrected += list(tile.get("cells/corrected", [0] * len(xy)))
        told += list(tile.get("cells/intensity", [-1] * len(xy)))  # −1: not known
    moved, kinds, touched = np.concatenate(points) + shift_um, np.array(positive, int), np.array(corrected, int)
    intensity = np.array(told, int)
    result = []
    for tile, origin in zip(tiles, origins, strict=True):
        inside = (moved - origin) / tile["tile/mpp"]
        chosen = ((inside >= 0) & (inside < tile["image/width"])).all(axis=1)
        own = [f for f in tile["tile/flags"] if f not in ("few_cells", "corrected", "classes_unknown")]
        few = int(chosen.sum()) < min_cells
        # a tile of few cells may get more of them; what made its label untrustworthy besides stays
        usable = tile["label/weight"] > 0 or ("few_cells" in tile["tile/flags"] and not _NO_LABEL & set(own))
        own += ["corrected"] * bool(touched[chosen].any())
        more = {"cells/corrected": touched[chosen].tolist()} if "corrected" in own else {}
        if tile["label/marker"] == "her2":
            own += ["classes_unknown"] * bool((intensity[chosen] < 0).any())
            more |= {} if "classes_unknown" in own else {"cells/intensity": intensity[chosen].tolist()}
        result.append(
            {k: v for k, v in tile.items() if k not in ("cells/corrected", "cells/intensity")}
            | more
            | {
                "cells/x": inside[chosen, 0].tolist(),
                "cells/y": inside[chosen, 1].tolist(),
                "cells/positive": kinds[chosen].tolist(),
                "label/positive": int(kinds[chosen].sum()),
                "label/negative": int(chosen.sum() - kinds[chosen].sum()),
                "label/weight": 0.0 if few or not usable else 1.0,
                "tile/flags": [*own, "few_cells"] if few else own,
            }
        )
    return result


if __name__ == "__main__":
    main()
