"""The indirect path on the held-out patients of a run: three readings beside the labels, and pictures side by side.

    python tools/bench/bench_virtual.py RUN SLIDES OUT [--direct RUN] [--every N] [--pictures N]

RUN: a finished run of the indirect path. SLIDES: the folder of the H&E slides, <pair>_he.tiff. OUT gets tiles.csv and
strips of H&E, real IHC, expected and drawn picture. `--direct`: a run of the direct path on the same records that
`vstain evaluate` has read. Every tile is read from the slide, with its surroundings.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tensorflow as tf

from virtual_stain.config import Config
from virtual_stain.config.tiling import TilingSettings
from virtual_stain.labels.jpeg import decode_jpeg
from virtual_stain.records.ihc_shards import iterate_ihc_shard
from virtual_stain.records.manifest import PairEntry, read_manifest
from virtual_stain.records.read import iterate_shard
from virtual_stain.slides.slide import SlideRef, open_slide
from virtual_stain.slides.tissue import find_tissue
from virtual_stain.tiles import plan_tiles
from virtual_stain.training.run_dir import TrainedRun, load_run
from virtual_stain.virtual.draw import slide_seed
from virtual_stain.workflows.virtual_slide import VirtualReader, VirtualTile, he_stain

Row = dict[str, Any]
_READINGS = ("expected", "counted", "density", "direct")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("slides", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--direct", type=Path)
    parser.add_argument("--every", type=int, default=1, help="read every n-th labelled tile")
    parser.add_argument("--pictures", type=int, default=3, help="strips of each pair")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    run = load_run(args.run)
    records = Path(run.data["records"])
    direct = _direct(args.direct)
    rows: list[Row] = []
    for pair in read_manifest(records).pairs_in([run.data["fold"]]):
        own = [
            row | {"direct": direct.get((pair.pair, row["col"], row["row"]), np.nan)}
            for row in _of_pair(run, records, pair, args.slides / f"{pair.pair}_he.tiff", args)
        ]
        rows += own
        _write(args.out / "tiles.csv", rows)
        _report(pair.pair, own)
    _report("all", rows)


def _direct(run: Path | None) -> dict[tuple[str, int, int], float]:
    if run is None:
        return {}
    with (run / "predictions.csv").open(newline="", encoding="utf-8") as stream:
        return {(r["pair"], int(r["col"]), int(r["row"])): float(r["ratio"]) for r in csv.DictReader(stream)}


def _of_pair(run: TrainedRun, records: Path, pair: PairEntry, path: Path, args: argparse.Namespace) -> Iterator[Row]:
    settings, tiling = Config().counting, run.card["tiling"]
    labels = _labels(records, pair)
    with open_slide(SlideRef(path)) as slide:
        tissue = find_tissue(slide, Config().tissue)
        plan = plan_tiles(slide, tissue, TilingSettings(window_um=tiling["window_um"], tile_px=tiling["tile_px"]))
        tiles = [t for t in plan.tiles if (t.col, t.row) in labels][:: args.every]
        drawn = set(np.linspace(0, len(tiles) - 1, args.pictures + 2).astype(int)[1:-1].tolist())
        reader = VirtualReader(
            slide=slide,
            tissue=tissue,
            grid=plan.grid,
            generator=_maps(run),
            marker=run.network.markers[0],
            stain=he_stain(slide, tissue, settings),
            seed=slide_seed(slide.content_hash()),
            settings=settings,
            halo_px=int(run.card["training"]["map"]["halo_px"]),
        )
        for index, tile in enumerate(map(reader.read, tiles)):
            label, ihc = labels[tile.tile.col, tile.tile.row]
            if index in drawn:
                _strip(args.out / f"{pair.pair}_{tile.tile.col}_{tile.tile.row}.png", tile, decode_jpeg(ihc))
            yield _row(pair.pair, tile, label)


def _maps(run: TrainedRun) -> Callable[[np.ndarray], Mapping[str, np.ndarray]]:
    compiled = tf.function(run.network.generator, autograph=False, reduce_retracing=True)
    return lambda rgb: {name: values.numpy() for name, values in compiled(tf.constant(rgb)).items()}


def _labels(records: Path, pair: PairEntry) -> dict[tuple[int, int], tuple[Row, bytes]]:
    """(col, row) → the record, and the JPEG of its IHC tile, of the tiles whose ratio is a label."""
    assert pair.ihc is not None
    found = {}
    for he, ihc in zip(pair.shards, pair.ihc.shards, strict=True):
        for record, side in zip(iterate_shard(records / he.file), iterate_ihc_shard(records / ihc.file), strict=True):
            if record["label/weight"] > 0:
                label = {k: v for k, v in record.items() if k.startswith("label/")}
                found[record["tile/col"], record["tile/row"]] = (label, side.jpeg)
    return found


def _row(pair: str, tile: VirtualTile, label: Row) -> Row:
    cells = label["label/positive"] + label["label/negative"]
    reading = tile.reading
    values = {n: np.nan if getattr(reading, n) is None else getattr(reading, n) for n in _READINGS[:3]}
    return {
        "pair": pair,
        "col": tile.tile.col,
        "row": tile.tile.row,
        "label": label["label/positive"] / cells,
        "cells": cells,
        **values,
        "counted_cells": reading.counted_cells,
        "expected_cells": reading.expected_cells,
        "flags": " ".join(reading.flags),
    }


def _strip(path: Path, tile: VirtualTile, ihc: np.ndarray) -> None:
    strip = np.concatenate([tile.he, ihc, tile.expected, tile.drawn], axis=1)
    cv2.imwrite(str(path), cv2.cvtColor(strip, cv2.COLOR_RGB2BGR))


def _write(path: Path, rows: list[Row]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def _report(name: str, rows: list[Row]) -> None:
    column = {key: np.array([row[key] for row in rows], np.float64) for key in rows[0] if key not in ("pair", "flags")}
    print(f"{name}: {len(rows)} tiles; reading, r with the label, mean error, mean absolute error (points)")
    for reading in _READINGS:
        known = np.isfinite(column[reading])
        if known.sum() > 2:
            error = 100 * (column[reading] - column["label"])[known]
            r = np.corrcoef(column[reading][known], column["label"][known])[0, 1]
            print(f"  {reading:9} {r:6.3f} {error.mean():+6.1f} {np.abs(error).mean():5.1f}")
    both = np.isfinite(column["counted"]) & np.isfinite(column["expected"])
    difference = 100 * (column["counted"] - column["expected"])[both]
    r = np.corrcoef(column["counted"][both], column["expected"][both])[0, 1]
    print(f"  counted against expected: r {r:.3f}, mean difference {difference.mean():+.1f} points")
    found = column["counted_cells"].sum() / column["expected_cells"].sum()
    flags = " ".join(row["flags"] for row in rows).split()
    print(
        f"  tumour nuclei counted / expected {found:.3f}; flags { ({f: flags.count(f) for f in sorted(set(flags))}) }"
    )


if __name__ == "__main__":
    main()
