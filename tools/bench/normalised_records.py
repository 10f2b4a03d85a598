"""A copy of a record folder whose slides were normalised to the stain of another one, slide by slide.

    python tools/bench/normalised_records.py records/ normalised/ --like training-records/ --by macenko

For the question whether stain normalisation helps. Statistics of a slide come from all its tiles together; those of the
target are the medians over the slides of `--like`. Labels stay.

- `reinhard`: mean and standard deviation of each Lab channel over tissue (Reinhard et al., IEEE CG&A 2001).
- `macenko`: stain vectors and the 99th percentile of each stain (Macenko et al., ISBI 2009).
"""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path

import click
import cv2
import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

_TISSUE_OD = 0.15
_PIXELS = 200_000


@click.command()
@click.argument("records", type=click.Path(path_type=Path, exists=True))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--like", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--by", type=click.Choice(["reinhard", "macenko"]), required=True)
def main(records: Path, out: Path, like: Path, by: str) -> None:
    """See the top of the file."""
    from virtual_stain.labels.jpeg import decode_jpeg, encode_jpeg
    from virtual_stain.records.manifest import read_manifest, write_manifest
    from virtual_stain.records.read import iterate_shard
    from virtual_stain.records.write import write_shards

    look, change = {"reinhard": (reinhard_look, reinhard), "macenko": (macenko_look, macenko)}[by]

    def of_pair(folder: Path, pair) -> list[dict]:
        return [r for s in pair.shards for r in iterate_shard(folder / s.file)]

    def pictures(tiles: list[dict]) -> list[np.ndarray]:
        return [decode_jpeg(tile["image/encoded"]) for tile in tiles]

    target = np.median([look(pictures(of_pair(like, pair))) for pair in read_manifest(like).pairs], axis=0)
    manifest = read_manifest(records)
    entries = []
    for pair in manifest.pairs:
        tiles = of_pair(records, pair)
        seen = pictures(tiles)
        own = look(seen)
        changed = [
            t | {"image/encoded": encode_jpeg(change(p, own, target), 95)} for t, p in zip(tiles, seen, strict=True)
        ]
        entries.append(dataclasses.replace(pair, shards=write_shards(out, pair.pair, changed, shard_bytes=150_000_000)))
    write_manifest(out, dataclasses.replace(manifest, pairs=tuple(entries)))
    print(out)


def sample(pictures: list[np.ndarray]) -> np.ndarray:
    """uint8[N, 3] RGB of tissue pixels, evenly spread over the tiles."""
    pixels = np.concatenate([p[::4, ::4].reshape(-1, 3) for p in pictures])
    tissue = pixels[density(pixels).mean(axis=1) > _TISSUE_OD]
    return tissue[:: max(1, len(tissue) // _PIXELS)]


def density(rgb: np.ndarray) -> np.ndarray:
    """Natural optical density, float32, of uint8 RGB."""
    return -np.log((rgb.astype(np.float32) + 1) / 256)


def reinhard_look(pictures: list[np.ndarray]) -> np.ndarray:
    """float[2, 3]: mean and standard deviation of the Lab channels."""
    lab = cv2.cvtColor(sample(pictures)[None], cv2.COLOR_RGB2LAB)[0].astype(np.float32)
    return np.stack([lab.mean(axis=0), lab.std(axis=0)])


def reinhard(picture: np.ndarray, own: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The tile with the target's mean and spread; glass is left as it is."""
    lab = cv2.cvtColor(picture, cv2.COLOR_RGB2LAB).astype(np.float32)
    moved = np.clip((lab - own[0]) * (target[1] / own[1]) + target[0], 0, 255).astype(np.uint8)
    tissue = density(picture).mean(axis=2, keepdims=True) > _TISSUE_OD / 2
    return np.where(tissue, cv2.cvtColor(moved, cv2.COLOR_LAB2RGB), picture)


def macenko_look(pictures: list[np.ndarray]) -> np.ndarray:
    """float[3, 3]: haematoxylin's vector, eosin's, and (99th percentile of each, 0)."""
    od = density(sample(pictures))
    _, vectors = np.linalg.eigh(np.cov(od.T))
    plane = vectors[:, [2, 1]] * np.where(vectors[0, [2, 1]] < 0, -1, 1)
    angles = np.arctan2(*(od @ plane).T[::-1])
    ends = [plane @ [np.cos(a), np.sin(a)] for a in np.percentile(angles, [1, 99])]
    # haematoxylin takes more of the red light
    hematoxylin, eosin = sorted(ends, key=lambda v: -v[0] / np.linalg.norm(v))
    stains = np.stack([hematoxylin, eosin])
    most = np.percentile(od @ np.linalg.pinv(stains), 99, axis=0)
    return np.vstack([stains, [*most, 0]])


def macenko(picture: np.ndarray, own: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The tile with the target's stain vectors and strengths."""
    amounts = density(picture.reshape(-1, 3)) @ np.linalg.pinv(own[:2])
    od = (amounts * (target[2, :2] / own[2, :2])) @ target[:2]
    return np.clip(256 * np.exp(-od) - 1, 0, 255).astype(np.uint8).reshape(picture.shape)


if __name__ == "__main__":
    main()
