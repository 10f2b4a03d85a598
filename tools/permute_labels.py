"""A copy of a record folder in which the labels of all training tiles are permuted: the full control experiment.

python tools/permute_labels.py records/ permuted/ --fold 0
vstain fit permuted/ --out run-permuted/ --config … && vstain evaluate run-permuted/

Whatever a run on these records still "reads" on its held-out tiles is procedure, not tissue. Cells, counts, weights,
flags and label ids travel together from one tile of a marker to another, across patients; pictures and places stay. The
test fold is copied as it is; the validation fold is permuted too, since it chooses the checkpoint.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

_LABEL_PREFIXES = ("label/", "cells/")
_OF_PICTURE = ("border", "blur_he")
"""Flags that say something of the H&E tile; all others are of the label and travel with it."""


@click.command()
@click.argument("records", type=click.Path(path_type=Path, exists=True))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--fold", default=0, show_default=True, help="Test fold, which keeps its labels.")
@click.option("--seed", default=0, show_default=True)
def main(records: Path, out: Path, fold: int, seed: int) -> None:
    """Writes OUT with permuted labels outside the test fold."""
    from virtual_stain.errors import OutputError

    try:
        moved, kept = permute_labels(records, out, fold=fold, seed=seed)
    except OutputError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"{out}: labels of {moved} tiles permuted, {kept} held-out pairs as they were.")


def permute_labels(records: Path, out: Path, *, fold: int = 0, seed: int = 0) -> tuple[int, int]:
    """See the top of the file; returns (permuted tiles, pairs that keep their labels). Raises OutputError."""
    import numpy as np

    from virtual_stain.dataset.split import split_by_patient
    from virtual_stain.errors import OutputError
    from virtual_stain.records.manifest import PairEntry, read_manifest, write_manifest
    from virtual_stain.records.read import iterate_shard
    from virtual_stain.records.write import write_shards

    if out.exists() and any(out.iterdir()):
        raise OutputError(f"{out}: expected a new or empty folder.")
    manifest = read_manifest(records)
    kept = {pair.pair for pair in split_by_patient(manifest, fold).test}
    tiles = {p.pair: [r for s in p.shards for r in iterate_shard(records / s.file)] for p in manifest.pairs}
    rng = np.random.default_rng(seed)
    moved = 0
    for marker in manifest.markers:  # a pair keeps its marker
        names = [p.pair for p in manifest.pairs if p.pair not in kept and p.marker == marker]
        places = [(name, i) for name in names for i in range(len(tiles[name]))]
        labelled = [tiles[name][i] for name, i in places]
        for (name, i), source in zip(places, rng.permutation(len(places)), strict=True):
            tiles[name][i] = _with_label(tiles[name][i], labelled[source])
        moved += len(places)

    def entry(pair: PairEntry) -> PairEntry:
        shards = write_shards(out, pair.pair, tiles[pair.pair], shard_bytes=150_000_000)
        trusted = [r for r in tiles[pair.pair] if r["label/weight"] > 0]
        return dataclasses.replace(
            pair,
            shards=shards,
            n_ratio=len(trusted),
            positive=sum(r["label/positive"] for r in trusted),
            negative=sum(r["label/negative"] for r in trusted),
        )

    write_manifest(out, dataclasses.replace(manifest, pairs=tuple(entry(p) for p in manifest.pairs)))
    return moved, len(kept)


def _with_label(picture: dict, label: dict) -> dict:
    """The first record with the label of the second."""
    flags = [f for f in label["tile/flags"] if f not in _OF_PICTURE]
    flags += [f for f in picture["tile/flags"] if f in _OF_PICTURE]
    return (
        {k: v for k, v in picture.items() if not k.startswith(_LABEL_PREFIXES)}
        | {k: v for k, v in label.items() if k.startswith(_LABEL_PREFIXES)}
        | {"tile/flags": flags}
    )


if __name__ == "__main__":
    main()
