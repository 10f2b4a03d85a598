"""Damaged files, thousands of them: does everything that reads them answer with a sentence, or with the same numbers?

    python tools/harness/fuzz.py OUT --runs 1000 --seed 0

Takes small sound files of every kind that the project writes for itself, changes bytes, values or keys with a fixed
seed, and reads them. A fault is an exception that is none of ours, or a number that changed in silence. Ends with 1
where there is one, and prints the seed of each.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from virtual_stain.errors import VirtualStainError

_VALUES: list[Any] = [None, -1, 0, 1e308, 10**12, 2**63, "", "../x", "\ud800", [], {}, True, float("nan"), "9" * 400]


@dataclass(frozen=True)
class Target:
    """A kind of file: how to read it, and what of it must not change in silence."""

    name: str
    sound: Path
    read: Callable[[Path], Any]
    """The numbers in it; raises VirtualStainError for a file that it refuses."""
    is_json: bool = False


@dataclass(frozen=True)
class Fault:
    """One damaged file that was not answered as promised."""

    target: str
    seed: int
    what: str


def run(targets: list[Target], folder: Path, runs: int, seed: int = 0) -> Iterator[Fault]:
    """`runs` damaged files in turn over the targets."""
    expected = {target.name: repr(target.read(target.sound)) for target in targets}
    for number in range(seed, seed + runs):
        target = targets[number % len(targets)]
        rng = random.Random(number)
        path = folder / f"{target.name}-{number}{target.sound.suffix}"
        as_json = target.is_json and rng.random() < 0.7
        data = target.sound.read_bytes()
        path.write_bytes(_changed_json(data, rng) if as_json else _changed_bytes(data, rng))
        try:
            received = repr(target.read(path))
        except VirtualStainError:
            received = None
        except Exception as error:
            yield Fault(target.name, number, f"{type(error).__name__}: {error!s:.200}")
            continue
        finally:
            path.unlink(missing_ok=True)
        if received is not None and received != expected[target.name] and not target.is_json:
            yield Fault(target.name, number, f"another number in silence: {received:.200}")


def _changed_bytes(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    kind = rng.choice(("flip", "zero", "cut", "insert", "noise"))
    at = rng.randrange(max(1, len(changed)))
    length = min(rng.choice((1, 8, 64, 2000)), len(changed) - at)
    if kind == "flip" and changed:
        changed[at] ^= 1 << rng.randrange(8)
    elif kind == "zero":
        changed[at : at + length] = bytes(length)
    elif kind == "cut":
        del changed[at:]
    elif kind == "insert":
        changed[at:at] = rng.randbytes(length)
    else:
        changed[at : at + length] = rng.randbytes(length)
    return bytes(changed)


def _changed_json(data: bytes, rng: random.Random) -> bytes:
    value = json.loads(data)
    places = list(_places(value))
    parent, key = rng.choice(places)
    if rng.random() < 0.15 and isinstance(parent, dict):
        del parent[key]
    else:
        parent[key] = rng.choice(_VALUES)
    text = json.dumps(value)
    if rng.random() < 0.05:
        text = text[:-1] + ', "schema_version": 1' + text[-1]
    if rng.random() < 0.03:
        text = "[" * 100_000 + text
    return text.encode("utf-8", "surrogatepass")


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in list(items):
        yield value, key
        yield from _places(child)


def project_targets(folder: Path) -> list[Target]:
    """Small sound files, made with the project's own test fixtures."""
    import numpy as np

    from tests.fixtures.models import tiny_card
    from tests.fixtures.records import tiny_records
    from tests.fixtures.review import tiny_label
    from virtual_stain.exporting.card import card_from_json
    from virtual_stain.exporting.registry import read_registry
    from virtual_stain.files import read_json, read_object
    from virtual_stain.labels.store import TileStore, write_tiles
    from virtual_stain.records.manifest import read_manifest
    from virtual_stain.reuse import read_record

    tiny_records(folder / "records", patients=3, tiles_per_pair=2, tile_px=32, window_um=9.6 * 2)
    rng = np.random.default_rng(0)
    write_tiles(folder / "tiles.h5", [tiny_label(rng, i, 0, tile_px=64, n=20) for i in range(2)], "key")
    (folder / "card.json").write_text(json.dumps(tiny_card().to_json()))
    line = {"index": 0, "previous": "0" * 64, "model": "m", "version": 1, "bundle_sha256": "a" * 64, "time_utc": "now"}
    (folder / "registry.jsonl").write_text(json.dumps(line, separators=(",", ":")) + "\n")
    (folder / "packed.json").write_text(json.dumps({"made_from": {"a": 1}, "files": {"x": "0"}, "shards": []}))

    def manifest(path: Path) -> Any:
        place = path.parent / f"{path.name}.d"
        place.mkdir(exist_ok=True)
        (place / "manifest.json").write_bytes(path.read_bytes())
        try:
            return read_manifest(place)
        finally:
            (place / "manifest.json").unlink()
            place.rmdir()

    def card(path: Path) -> Any:
        return card_from_json(read_object(path, "a card"), "x")

    def tiles(path: Path) -> Any:
        with TileStore(path) as store:
            found = [store.tile(i) for i in range(2)]
        return [(t.label_id, t.he_jpeg, t.box, t.counts, t.weight, t.flags, t.cells.xy.tobytes()) for t in found]

    return [
        Target("manifest", folder / "records" / "manifest.json", manifest, is_json=True),
        Target("card", folder / "card.json", card, is_json=True),
        Target("registry", folder / "registry.jsonl", lambda p: read_registry(p).entries, is_json=True),
        Target("record", folder / "packed.json", read_record, is_json=True),
        Target("json", folder / "packed.json", lambda p: read_json(p, "x"), is_json=True),
        Target("tiles", folder / "tiles.h5", tiles),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parents[2]))
    arguments.out.mkdir(parents=True, exist_ok=True)
    faults = list(run(project_targets(arguments.out), arguments.out, arguments.runs, arguments.seed))
    for fault in faults:
        print(f"{fault.target}, seed {fault.seed}: {fault.what}")
    print(f"{arguments.runs} damaged files, {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
