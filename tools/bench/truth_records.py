"""Records of phantom patients that are labelled with the truth: no IHC slide, no registration, no counting.

    python tools/bench/truth_records.py records/ --pairs 10 --seed 12 [--coupling 0]
    python tools/bench/truth_records.py other-lab/ --pairs 6 --first 10 --seed 12 --lab tinted

For questions about training alone: a cohort of ten takes a minute of one core instead of eight.

- `--coupling 0` makes nuclei that say nothing of the ratio.
- `--levels` makes patients of 5 to 65 %, whose level shows in the nuclei as the field does: slides can be told apart.
- `--first 10` makes patients that a cohort of ten of the same seed does not hold.
- `--lab` shows the same H&E section as another laboratory would cut, stain and scan it; the labels stay the same.

The folds are those of `vstain demo`: two patients test, one validates.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--pairs", default=10, show_default=True)
@click.option("--first", default=0, show_default=True, help="Number of the first patient in the endless cohort.")
@click.option("--size-mm", default=2.2, show_default=True, help="Side of the tissue, mm.")
@click.option("--seed", default=12, show_default=True)
@click.option("--levels", is_flag=True, help="Patients of very different level, which their nuclei show.")
@click.option("--lab", default="", help="Of vstain phantom; default: the usual one.")
@click.option(
    "--coupling", default=None, type=float, help="Of the nuclei's look with the ratio; default: the phantom's."
)
def main(
    out: Path,
    pairs: int,
    first: int,
    size_mm: float,
    seed: int,
    levels: bool,
    lab: str,
    coupling: float | None,
) -> None:
    """See the top of the file."""
    from virtual_stain.config.phantom import PhantomBiology, PhantomSettings
    from virtual_stain.phantom.cohort import pair_name, write_slide
    from virtual_stain.phantom.he_labs import he_photographed
    from virtual_stain.phantom.pair import make_pair
    from virtual_stain.phantom.truth import write_truth
    from virtual_stain.records.manifest import Manifest, TilingEntry, write_manifest
    from virtual_stain.workflows.demo.plan import DEFAULT

    biology = PhantomBiology()
    if levels:
        biology = dataclasses.replace(biology, mean_logit=-1.1, patient_logit_sd=1.0, patient_coupling=biology.coupling)
    if coupling is not None:
        biology = dataclasses.replace(biology, coupling=coupling)
    settings = PhantomSettings(pairs=pairs, size_mm=size_mm, seed=seed, biology=biology)
    config = DEFAULT.load_config()
    entries = []
    (out / "slides").mkdir(parents=True, exist_ok=True)
    for index in range(first, first + pairs):
        name = pair_name(index)
        pair = make_pair(name, index, settings)
        slide = out / "slides" / f"{name}_he.tiff"
        he = pair.he
        if lab:
            # the labels are those of the usual lab: an IHC side with other cells would add noise of its own
            he = dataclasses.replace(he, optics=he_photographed(he.optics, he.seed, lab), _noise=[])
        write_slide(slide, he, "tiff", settings.jpeg_quality)
        write_truth(out / "truth" / name, pair.truth, pair.extra)
        entries.append(pair_entry(out, name, slide, pair.truth, DEFAULT.fold(index), config))
        print(name, entries[-1].n_ratio, "labelled tiles", flush=True)
    tiling = config.tiling
    write_manifest(
        out,
        Manifest(
            tiling=TilingEntry(tiling.window_um, tiling.window_um, tiling.tile_px),
            value_definition="positive_ratio",
            markers=("ki67",),
            n_folds=5,
            min_tumour_cells=config.labels.min_tile_cells,
            patient_key_fingerprint="0" * 16,
            accept_unreviewed=True,
            pairs=tuple(entries),
        ),
    )


def pair_entry(out: Path, name: str, slide: Path, truth: Any, fold: int, config: Any) -> Any:
    """Reads the tiles of an H&E slide, writes them with the true cells under them, and describes them."""
    from virtual_stain.records.manifest import PairEntry, RegistrationEntry
    from virtual_stain.records.write import write_shards
    from virtual_stain.slides.slide import SlideRef, open_slide
    from virtual_stain.slides.tissue import find_tissue
    from virtual_stain.tiles import plan_tiles

    patient = hashlib.sha256(f"{out.name}/{name}".encode()).hexdigest()
    records = []
    with open_slide(SlideRef(slide)) as he:
        for ref in plan_tiles(he, find_tissue(he, config.tissue), config.tiling).tiles:
            if ref.tissue_fraction >= config.labels.min_tissue_fraction:
                records.append(tile_record(he, ref, name, patient, truth, config))
        digest = he.content_hash()
    used = [r for r in records if r["label/weight"] > 0]
    return PairEntry(
        pair=name,
        patient_id=patient,
        marker="ki67",
        fold=fold,
        he_content_sha256=digest,
        ihc_content_sha256=hashlib.sha256(f"none of {digest}".encode()).hexdigest(),
        n_records=len(records),
        n_ratio=len(used),
        positive=sum(r["label/positive"] for r in used),
        negative=sum(r["label/negative"] for r in used),
        registration=RegistrationEntry(0.0, 0.0, "accept", ()),
        shards=write_shards(out, name, records, shard_bytes=150_000_000),
    )


def tile_record(he: Any, ref: Any, name: str, patient: str, truth: Any, config: Any) -> dict[str, Any]:
    """One tile with the tumour cells of the IHC section that lie under it."""
    from virtual_stain.geometry import Size
    from virtual_stain.labels.jpeg import encode_jpeg
    from virtual_stain.records.schema import filename
    from virtual_stain.slides.window import read_window

    box, px = ref.box, config.tiling.tile_px
    jpeg = encode_jpeg(read_window(he, box, Size(px, px)), config.labels.jpeg_quality)
    x, y = truth.ihc_he_px0.T
    inside = (x >= box.x) & (x < box.x1) & (y >= box.y) & (y < box.y1) & truth.ihc_nuclei.tumour
    positive = truth.ihc_nuclei.positive[inside].astype(int)
    n = len(positive)
    return {
        "image/encoded": jpeg,
        "image/format": "jpeg",
        "image/height": px,
        "image/width": px,
        "image/filename": filename(name, ref.col, ref.row),
        "tile/pair": name,
        "tile/patient_id": patient,
        "tile/col": ref.col,
        "tile/row": ref.row,
        "tile/x_px0": box.x,
        "tile/y_px0": box.y,
        "tile/width_px0": box.width,
        "tile/height_px0": box.height,
        "tile/mpp": config.tiling.window_um / px,
        "tile/tissue_fraction": ref.tissue_fraction,
        "tile/flags": [],
        "label/marker": "ki67",
        "label/value_definition": "positive_ratio",
        "label/positive": int(positive.sum()),
        "label/negative": n - int(positive.sum()),
        "label/weight": float(n >= config.labels.min_tile_cells),
        "label/usable_count": 1,
        "cells/x": np.float32((x[inside] - box.x) * px / box.width).tolist(),
        "cells/y": np.float32((y[inside] - box.y) * px / box.height).tolist(),
        "cells/positive": positive.tolist(),
        "registration/error_median_um": 0.0,
        "registration/error_p95_um": 0.0,
        "registration/verdict": "accept",
        "review/verdict": "unreviewed",
        "review/reviewer": "",
        "label/id": hashlib.sha256(jpeg).hexdigest()[:32],
    }


if __name__ == "__main__":
    main()
