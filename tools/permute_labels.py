"""A copy of a record folder in which the labels of all training tiles are permuted: the full control experiment.

python tools/permute_labels.py records/ permuted/ --fold 0
vstain fit permuted/ --out run-permuted/ --config … && vstain evaluate run-permuted/

Whatever a run on these records still "reads" on its held-out tiles is procedure, not tissue. Cells, counts, weights
and label ids travel together from one tile to another, across patients; pictures and places stay. The test fold is
copied as it is; the validation fold is permuted too, since it chooses the checkpoint.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

_LABEL_PREFIXES = ("label/", "cells/")


@click.command()
@click.argument("records", type=click.Path(path_type=Path, exists=True))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--fold", default=0, show_default=True, help="Test fold, which keeps its labels.")
@click.option("--seed", default=0, show_default=True)
def main(records: Path, out: Path, fold: int, seed: int) -> None:
    """Writes OUT with permuted labels outside the test fold."""
    import numpy as np

    from virtual_stain.dataset.split import split_by_patient
    from virtual_stain.errors import OutputError
    from virtual_stain.records.manifest import PairEntry, read_manifest, write_manifest
    from virtual_stain.records.read import iterate_shard
    from virtual_stain.records.write import write_shards

    if out.exists() and any(out.iterdir()):
        raise click.ClickException(str(OutputError(f"{out}: expected a new or empty folder.")))
    manifest = read_manifest(records)
    kept = {pair.pair for pair in split_by_patient(manifest, fold).test}
    tiles = {p.pair: [r for s in p.shards for r in iterate_shard(records / s.file)] for p in manifest.pairs}
    places = [(p.pair, i) for p in manifest.pairs if p.pair not in kept for i in range(len(tiles[p.pair]))]
    labels = [{k: v for k, v in tiles[p][i].items() if k.startswith(_LABEL_PREFIXES)} for p, i in places]
    for (pair, i), source in zip(places, np.random.default_rng(seed).permutation(len(places)), strict=True):
        picture = {k: v for k, v in tiles[pair][i].items() if not k.startswith(_LABEL_PREFIXES)}
        tiles[pair][i] = picture | labels[source]

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
    click.echo(f"{out}: labels of {len(places)} tiles permuted, {len(kept)} held-out pairs as they were.")


if __name__ == "__main__":
    main()
