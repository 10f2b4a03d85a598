"""Damaged files, thousands of them: does everything that reads them answer with a sentence, or with the same numbers?

    python tools/harness/fuzz.py OUT --runs 1000 --seed 0

Takes small sound files of every kind that the project reads. Changes bytes, values, keys or lines with a fixed seed,
and reads them in a child process. A fault is an exception that is none of ours, a child that dies, takes longer than
60 s or more than 4 GB, or a number that changed in silence where the format, a stored hash or the decoder can know.
Ends with 1 where there is one, and prints the seed of each: `--seed S --runs 1` repeats it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import selectors
import shutil
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from virtual_stain.errors import VirtualStainError

MOST_S, MOST_BYTES = 60.0, 4_000_000_000
_VALUES: list[Any] = [None, -1, 0, 1e308, 10**12, 2**63, "", "../x", "\ud800", [], {}, True, float("nan"), "9" * 400]
_FIELDS = ["", "=1+1", "\0", "nan", "1e999", "-1", "9" * 5000, "../../etc/passwd", '"', "\x1b[2J", "ä" * 300, "3,5"]


@dataclass(frozen=True)
class Target:
    """A kind of file: how to read it, and what of it must not change in silence."""

    name: str
    sound: Path
    read: Callable[[Path], Any]
    """The numbers in it; raises VirtualStainError for a file that it refuses."""
    is_json: bool = False
    is_text: bool = False
    is_dicom: bool = False
    compared: bool | None = None
    """Whether the file can know that it was changed; None: where it is no JSON."""


@dataclass(frozen=True)
class Fault:
    """One damaged file that was not answered as promised."""

    target: str
    seed: int
    what: str


def run(targets: list[Target], folder: Path, runs: int, seed: int = 0) -> Iterator[Fault]:
    """`runs` damaged files in turn over the targets, read in this process: for readers that cannot end it."""
    expected = {target.name: repr(target.read(target.sound)) for target in targets}
    for number in range(seed, seed + runs):
        target = targets[number % len(targets)]
        path = _damaged(target, folder, number)
        try:
            yield from _judged(target, number, expected[target.name], *_answer(target, path))
        finally:
            path.unlink(missing_ok=True)


def run_in_child(
    make: str, folder: Path, runs: int, seed: int = 0, tell: Callable[[str], None] | None = None
) -> Iterator[Fault]:
    """The same in a child process, which is replaced when it dies. `make`: "module:function" of folder → targets."""
    targets = _targets_of(make, folder)
    with _Child(make, folder) as child:
        expected = {target.name: child.ask(i, target.sound)[1] for i, target in enumerate(targets)}
        for number in range(seed, seed + runs):
            index = number % len(targets)
            path = _damaged(targets[index], folder, number)
            try:
                yield from _judged(targets[index], number, expected[targets[index].name], *child.ask(index, path))
            finally:
                path.unlink(missing_ok=True)
            if tell is not None and (number - seed + 1) % 100 == 0:
                tell(
                    f"{number - seed + 1} files, peak {child.peak_bytes / 1e9:.2f} GB, longest {child.longest_s:.1f} s"
                )


def _judged(target: Target, number: int, expected: str, kind: str, text: str) -> Iterator[Fault]:
    compared = not target.is_json if target.compared is None else target.compared
    if kind == "fault":
        yield Fault(target.name, number, text)
    elif kind == "value" and compared and text != expected:
        yield Fault(target.name, number, f"another number in silence: {text:.200}")


def _answer(target: Target, path: Path) -> tuple[str, str]:
    try:
        return "value", repr(target.read(path))
    except VirtualStainError as error:
        return "refused", str(error)[:200]
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        return "fault", f"{type(error).__name__}: {error!s:.160} ({Path(last.filename).name}:{last.lineno})"


class _Child:
    """Reads files in this process' place."""

    def __init__(self, make: str, folder: Path) -> None:
        self._command = [sys.executable, str(Path(__file__).resolve()), str(folder), "--serve", make]
        self._process: subprocess.Popen[bytes] | None = None
        self.peak_bytes = 0
        self.longest_s = 0.0

    def __enter__(self) -> _Child:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def ask(self, index: int, path: Path) -> tuple[str, str]:
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        began = time.monotonic()
        process.stdin.write(json.dumps([index, str(path)]).encode() + b"\n")
        process.stdin.flush()
        line = _line_within(process, MOST_S)
        self.longest_s = max(self.longest_s, time.monotonic() - began)
        if line is None:
            self._end()
            return "fault", f"no answer within {MOST_S:.0f} s"
        if not line:
            code = process.wait()
            self._end()
            return "fault", f"the process ended with {code}"
        kind, text, peak = json.loads(line)
        self.peak_bytes = max(self.peak_bytes, peak)
        if peak > MOST_BYTES:
            self._end()
            return "fault", f"{peak / 1e9:.1f} GB of memory"
        return kind, text

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            root = str(Path(__file__).parents[2])
            environment = os.environ | {"PYTHONPATH": root, "TF_CPP_MIN_LOG_LEVEL": "3"}
            from tools.harness.warm import ends_with

            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                preexec_fn=ends_with(os.getpid()),
            )
            if _line_within(self._process, 300) != b"ready\n":
                raise RuntimeError("The reading process did not begin.")
        return self._process

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            with self._process:
                pass
            self._process = None


def _line_within(process: subprocess.Popen[bytes], seconds: float) -> bytes | None:
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        return process.stdout.readline() if selector.select(seconds) else None


def _serve(make: str, folder: Path) -> None:
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    targets = _targets_of(make, folder)
    answers.write(b"ready\n")
    answers.flush()
    for line in sys.stdin.buffer:
        index, path = json.loads(line)
        kind, text = _answer(targets[index], Path(path))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        answers.write(json.dumps([kind, text[:2000], peak]).encode() + b"\n")
        answers.flush()


def _targets_of(make: str, folder: Path) -> list[Target]:
    import importlib

    module, _, function = make.partition(":")
    found: list[Target] = getattr(importlib.import_module(module), function)(folder)
    return found


def _damaged(target: Target, folder: Path, number: int) -> Path:
    rng = random.Random(number)
    path = folder / f"{target.name}-{number}{''.join(target.sound.suffixes)}"
    data = target.sound.read_bytes()
    if target.is_json and rng.random() < 0.7:
        data = _changed_json(data, rng)
    elif target.is_text and rng.random() < 0.7:
        data = _changed_text(data, rng)
    elif target.is_dicom and rng.random() < 0.7:
        from tools.harness.dicom_files import changed_dicom

        data = changed_dicom(data, rng)
    else:
        data = _changed_bytes(data, rng)
    path.write_bytes(data)
    return path


def _changed_bytes(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    kind = rng.choice(("flip", "zero", "cut", "insert", "noise"))
    # headers and directories stand at the beginning or the end: half of the changes go there
    ends = rng.choice((0, max(0, len(changed) - 600)))
    at = (
        rng.randrange(max(1, len(changed))) if rng.random() < 0.5 else ends + rng.randrange(min(600, len(changed) or 1))
    )
    at = min(at, max(0, len(changed) - 1))
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


def _changed_text(data: bytes, rng: random.Random) -> bytes:
    """One field of one line of a table or of TOML is another."""
    lines = data.decode("utf-8").split("\n")
    at = rng.randrange(len(lines))
    separator = "," if "," in lines[at] else "="
    fields = lines[at].split(separator)
    if rng.random() < 0.15:
        lines.insert(at, lines[rng.randrange(len(lines))])
    else:
        fields[rng.randrange(len(fields))] = rng.choice(_FIELDS)
        lines[at] = separator.join(fields)
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in list(items):
        yield value, key
        yield from _places(child)


def project_targets(folder: Path) -> list[Target]:
    """Small sound files of what the project writes for itself, made with its own test fixtures."""
    import numpy as np

    from tests.fixtures.models import tiny_card
    from tests.fixtures.records import tiny_records
    from tests.fixtures.registration import plain_registration, toy_transform
    from tests.fixtures.review import tiny_label
    from virtual_stain.exporting.card import card_from_json
    from virtual_stain.exporting.registry import read_registry
    from virtual_stain.files import read_json, read_object
    from virtual_stain.labels.store import TileStore, write_tiles
    from virtual_stain.records.manifest import read_manifest
    from virtual_stain.registration.store import H5_NAME, JSON_NAME, read_registration, write_registration
    from virtual_stain.reuse import read_record

    if not (folder / "records").exists():
        tiny_records(folder / "records", patients=3, tiles_per_pair=2, tile_px=32, window_um=9.6 * 2)
        rng = np.random.default_rng(0)
        write_tiles(folder / "tiles.h5", [tiny_label(rng, i, 0, tile_px=64, n=20) for i in range(2)], "key")
        (folder / "card.json").write_text(json.dumps(tiny_card().to_json()))
        line = {"index": 0, "previous": "0" * 64, "model": "m", "version": 1, "bundle_sha256": "a" * 64}
        text = json.dumps(line | {"time_utc": "now"}, separators=(",", ":"))
        (folder / "registry.jsonl").write_text(text + "\n")
        (folder / "packed.json").write_text(json.dumps({"made_from": {"a": 1}, "files": {"x": "0"}, "shards": []}))
        write_registration(plain_registration(toy_transform(40, elastic_px=3.0)), folder / "registered")

    def manifest(path: Path) -> Any:
        return _in_place(path, "manifest.json", {}, read_manifest)

    def card(path: Path) -> Any:
        return card_from_json(read_object(path, "a card"), "x")

    def tiles(path: Path) -> Any:
        with TileStore(path) as store:
            found = [store.tile(i) for i in range(2)]
        return [(t.label_id, t.he_jpeg, t.box, t.counts, t.weight, t.flags, t.cells.xy.tobytes()) for t in found]

    def registration(name: str, other: str) -> Callable[[Path], Any]:
        def read(path: Path) -> Any:
            found = _in_place(path, name, {other: folder / "registered" / other}, read_registration)
            matrix = found.transform.ihc_from_he.matrix.tolist()
            field = found.transform.displacement
            return matrix, found.verdict, found.error_p95_um, None if field is None else field.values_px0.tobytes()

        return read

    registered = folder / "registered"
    return [
        Target("manifest", folder / "records" / "manifest.json", manifest, is_json=True),
        Target("card", folder / "card.json", card, is_json=True),
        Target("registry", folder / "registry.jsonl", lambda p: read_registry(p).entries, is_json=True),
        Target("record", folder / "packed.json", read_record, is_json=True),
        Target("json", folder / "packed.json", lambda p: read_json(p, "x"), is_json=True),
        Target("tiles", folder / "tiles.h5", tiles),
        Target("regjson", registered / JSON_NAME, registration(JSON_NAME, H5_NAME), is_json=True, compared=True),
        Target("regh5", registered / H5_NAME, registration(H5_NAME, JSON_NAME)),
    ]


def _in_place(path: Path, name: str, others: dict[str, Path], read: Callable[[Path], Any]) -> Any:
    """`read` of a folder in which the file at `path` has the name that it belongs to."""
    place = path.parent / f"{path.name}.d"
    place.mkdir(exist_ok=True)
    try:
        (place / name).write_bytes(path.read_bytes())
        for other, source in others.items():
            (place / other).write_bytes(source.read_bytes())
        return read(place)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def foreign_targets(folder: Path) -> list[Target]:
    """The same, and what comes from elsewhere: slides, shards, tables, annotations, settings, verdicts."""
    import numpy as np
    from PIL import Image

    from tests.fixtures.records import tiny_records
    from tests.fixtures.slides import write_tiled_tiff
    from virtual_stain.config import load_config
    from virtual_stain.counting.region import read_region
    from virtual_stain.geometry import Box, Size
    from virtual_stain.pairs import read_pairs
    from virtual_stain.phantom.ndpi import write_ndpi
    from virtual_stain.records.verify import verify_records
    from virtual_stain.registration.landmarks import read_landmarks
    from virtual_stain.review.store import ReviewStore
    from virtual_stain.review.verdicts import Decision, Place, Verdict, read_verdicts
    from virtual_stain.scoring.inputs import read_slide_table
    from virtual_stain.slides.probe import require_survivable
    from virtual_stain.slides.slide import SlideRef, open_slide

    own = project_targets(folder)
    made = folder / "foreign"
    picture = np.clip(np.random.default_rng(1).normal(190, 25, (512, 512, 3)), 0, 255).astype(np.uint8)
    if not made.exists():
        made.mkdir()
        for name, compression in (("jpeg", "jpeg"), ("deflate", "deflate")):
            write_tiled_tiff(made / f"{name}.tiff", picture, 0.5, levels=(1, 4), compression=compression)
        Image.fromarray(picture).save(made / "plain.png")
        Image.fromarray(picture).save(made / "plain.jpg", quality=85)
        write_ndpi(made / "slide.ndpi", _Strips(picture), 80)
        tiny_records(made / "records", patients=1, tiles_per_pair=2, tile_px=32, window_um=9.6 * 2)
        slides = f"{made}/jpeg.tiff,{made}/deflate.tiff"
        (made / "pairs.csv").write_text(f"pair,patient,marker,he,ihc,fold\na,P1,ki67,{slides},0\n")
        (made / "slides.csv").write_text(f"slide,mpp,name\n{made}/jpeg.tiff,0.5,one\n{made}/deflate.tiff,,two\n")
        (made / "landmarks.csv").write_text("he_x,he_y,ihc_x,ihc_y\n1,2,3,4\n100,20,103,22\n50,400,53,402\n")
        (made / "settings.toml").write_text('[tiling]\nwindow_um = 307.2\n[scoring]\ntop_n = 30\nengine = "openvino"\n')
        ring = [[10, 10], [200, 10], [200, 220], [10, 220], [10, 10]]
        feature = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": {}}
        feature["properties"] = {"objectType": "annotation", "classification": {"name": "Tumor"}}
        (made / "region.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
        verdicts = [Verdict(Place("a", i, 0), "a" * 32, Decision.ACCEPT, "me") for i in range(40)]
        ReviewStore(made / "review.sqlite").add(verdicts)
        _checkpointed(made / "review.sqlite")
        (made / "review.csv").write_text(
            "pair,col,row,label_id,verdict,reviewer,reason\n" + f"a,0,0,{'a' * 32},accept,me,\n"
        )
    shard = next((made / "records").glob("*.tfrecord"))

    def slide(path: Path) -> Any:
        ref = SlideRef(path)
        require_survivable(ref)
        with open_slide(ref) as opened:
            opened.overview(max_px=128)
            for level in range(opened.level_count):
                opened.read_level(level, 100, 100, Size(64, 64))
        return "read"

    def records(path: Path) -> Any:
        beside = {p.name: p for p in (made / "records").iterdir() if p.name != shard.name}

        return _in_place(path, shard.name, beside, lambda place: verify_records(place).records)

    def decisions(path: Path) -> Any:
        store = ReviewStore(path, create=False)
        return len(store.decisions()), store.last_id()

    slides = [
        Target(p.suffix[1:] + p.stem, p, slide, compared=False) for p in sorted(made.glob("*.*")) if p.suffix in _SLIDES
    ]
    return [
        *own,
        *slides,
        *_dicom(made, picture, slide),
        Target("shard", shard, records),
        Target("pairs", made / "pairs.csv", read_pairs, is_text=True, compared=False),
        Target("slides", made / "slides.csv", read_slide_table, is_text=True, compared=False),
        Target("landmarks", made / "landmarks.csv", read_landmarks, is_text=True, compared=False),
        Target("toml", made / "settings.toml", load_config, is_text=True, compared=False),
        Target("geojson", made / "region.geojson", lambda p: read_region(p, Box(0, 0, 512, 512)), is_json=True),
        Target("sqlite", made / "review.sqlite", decisions, compared=False),
        Target("verdicts", made / "review.csv", read_verdicts, is_text=True, compared=False),
    ]


_SLIDES = (".tiff", ".ndpi", ".png", ".jpg")


def _dicom(made: Path, picture: Any, read: Callable[[Path], Any]) -> list[Target]:
    """A slide of one level, and a level of a real one where the real data are at hand."""
    from tools.harness.dicom_files import write_dicom_slide

    found = [made / "dicom" / "small.dcm"]
    found[0].parent.mkdir(exist_ok=True)
    if not found[0].exists():
        write_dicom_slide(found[0], picture, 0.5)  # with pydicom, of the extra `dicom`
    real = Path(os.environ.get("VSTAIN_REALDATA", "/nowhere")) / "dicom_pyramid" / "level-3-frames-0-1.dcm"
    if real.is_file():
        found.append(made / "dicom-real" / real.name)
        found[1].parent.mkdir(exist_ok=True)
        if not found[1].exists():
            found[1].write_bytes(real.read_bytes())
    return [Target(f"dicom-{path.stem}", path, read, is_dicom=True, compared=False) for path in found]


def _checkpointed(path: Path) -> None:
    import contextlib
    import sqlite3

    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode = DELETE")


class _Strips:
    """A picture as `write_ndpi` takes it."""

    def __init__(self, picture: Any) -> None:
        from virtual_stain.geometry import Size

        self._picture = picture
        self.size = Size(picture.shape[1], picture.shape[0])
        self.mpp = 0.5

    def strips(self, rows: int) -> Iterator[Any]:
        for top in range(0, self.size.height, rows):
            yield self._picture[top : top + rows]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        _serve(arguments.serve, arguments.out)
        return 0
    sys.path.insert(0, str(Path(__file__).parents[2]))
    arguments.out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    make = "tools.harness.fuzz:foreign_targets"
    faults = []
    for fault in run_in_child(
        make, arguments.out, arguments.runs, arguments.seed, lambda text: print(text, flush=True)
    ):
        print(f"{fault.target}, seed {fault.seed}: {fault.what}", flush=True)
        faults.append(fault)
    kinds = Counter(fault.target for fault in faults)
    print(f"{arguments.runs} damaged files, {len(faults)} faults {dict(kinds)}, {time.monotonic() - began:.0f} s")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
