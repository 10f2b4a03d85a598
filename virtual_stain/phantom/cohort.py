"""Writes a cohort: slides of three kinds of file, pairs.csv, and the truth of every pair."""

from __future__ import annotations

import csv
import dataclasses
import functools
import io
import time
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

import cv2

from virtual_stain.config.phantom import PhantomSettings
from virtual_stain.errors import OutputError
from virtual_stain.files import folder_lock, make_folder, write_text
from virtual_stain.parallel import local_executor, map_in_order
from virtual_stain.phantom.ndpi import write_ndpi
from virtual_stain.phantom.pair import make_pair, slide_names
from virtual_stain.phantom.pyramid import StripSource, write_tiled
from virtual_stain.phantom.truth import write_truth
from virtual_stain.progress import QUIET, Progress
from virtual_stain.provenance import Outcome, RunRecord, refuse_foreign_run
from virtual_stain.reuse import code_sha256

_SETTINGS = "settings.txt"

SUFFIXES = {"tiff": ".tiff", "svs": ".svs", "ndpi": ".ndpi"}
"""Kind of slide file → its suffix: generic TIFF, Aperio-like SVS, Hamamatsu-like NDPI."""


@dataclass(frozen=True, slots=True)
class WrittenPair:
    """What a worker reports."""

    pair: str
    megapixels: float
    seconds: float


def pair_name(index: int) -> str:
    """`p001`, `p002` …"""
    return f"p{index + 1:03d}"


def write_cohort(
    out: Path,
    settings: PhantomSettings,
    *,
    jobs: int = 1,
    force: bool = False,
    progress: Progress = QUIET,
    executor: Executor | None = None,
) -> Path:
    """Writes `settings.pairs` pairs below `out` and returns the path of its pairs.csv.

    Finished pairs of the same settings and code are kept. A folder with pairs of other settings is refused unless
    `force`. `executor`: where the pairs are rendered, by default `jobs` local processes. Raises OutputError.
    """
    record = RunRecord("phantom", config={"phantom": dataclasses.asdict(settings)})
    with folder_lock(out):
        refuse_foreign_run(out, "phantom")
        _refuse_other_cohort(out, settings, force)
        make_folder(out / "slides")
        for stale in (out / "slides").glob("*.tmp"):
            stale.unlink()
        if force or _of_other_code(out):
            # a pair is done when its truth.json is there; a kill must not leave one of old settings or of old code
            for old in (out / "truth").glob("*/truth.json"):
                old.unlink()
        write_text(out / _SETTINGS, _settings_text(settings) + _code_text())
        todo = [i for i in range(settings.pairs) if not _done(out, settings, i)]
        work = functools.partial(_write_pair, out, settings)
        if executor is None:
            with local_executor(min(jobs, max(1, len(todo)))) as pool:
                written = list(progress.track(map_in_order(pool, work, todo), len(todo), "phantom", "pair"))
        else:
            written = list(progress.track(map_in_order(executor, work, todo), len(todo), "phantom", "pair"))
        _write_pairs_csv(out, settings)
    record.outcomes = [Outcome(w.pair, True) for w in written]
    record.counts = {"pairs": settings.pairs, "rendered": len(written)}
    record.durations_s = {w.pair: w.seconds for w in written}
    record.extra = {"megapixels": round(sum(w.megapixels for w in written), 2)}
    record.write(out)
    return out / "pairs.csv"


def _settings_text(settings: PhantomSettings) -> str:
    """All settings but the number of pairs: a cohort may grow."""
    return repr(dataclasses.replace(settings, pairs=1)) + "\n"


def _code_text() -> str:
    return f"code {code_sha256(__name__)}\n"


def _of_other_code(out: Path) -> bool:
    path = out / _SETTINGS
    return path.exists() and not path.read_text(encoding="utf-8").endswith(_code_text())


def _refuse_other_cohort(out: Path, settings: PhantomSettings, force: bool) -> None:
    path = out / _SETTINGS
    if not force and path.exists() and not path.read_text(encoding="utf-8").startswith(_settings_text(settings)):
        raise OutputError(
            f"{out}: holds phantoms of other settings.",
            hint="Choose another --out, or --force to render them again.",
        )


def _done(out: Path, settings: PhantomSettings, index: int) -> bool:
    name = pair_name(index)
    slides = slide_names(name, SUFFIXES[settings.format], out / "slides")
    truth = out / "truth" / name / "truth.json"
    return truth.exists() and all(p.exists() for p in slides)


def _write_pair(out: Path, settings: PhantomSettings, index: int) -> WrittenPair:
    cv2.setNumThreads(1)
    start = time.monotonic()
    name = pair_name(index)
    pair = make_pair(name, index, settings)
    he, ihc = slide_names(name, SUFFIXES[settings.format], out / "slides")
    write_slide(he, pair.he, settings.format, settings.jpeg_quality)
    write_slide(ihc, pair.ihc, settings.format, settings.jpeg_quality)
    write_truth(out / "truth" / name, pair.truth, pair.extra)
    area = pair.he.size.area + pair.ihc.size.area
    return WrittenPair(name, area / 1e6, time.monotonic() - start)


def write_slide(path: Path, source: StripSource, kind: str, quality: int) -> None:
    """Writes `source` to `path` atomically; `kind` is tiff, svs or ndpi. Raises OutputError."""
    if kind == "ndpi":
        write_ndpi(path, source, quality)
    elif kind == "svs":
        write_tiled(path, source, quality, _aperio_text(source, quality), reduced_flag=False)
    else:
        write_tiled(path, source, quality, "virtual-stain phantom", reduced_flag=True)


def _aperio_text(source: StripSource, quality: int) -> str:
    width, height = source.size.width, source.size.height
    return (
        f"Aperio Image Library v11.2.1 \r\n{width}x{height} [0,0 {width}x{height}] (256x256) JPEG/RGB Q={quality}"
        f"|AppMag = {10 / source.mpp:.0f}|MPP = {source.mpp:.6f}|ImageID = 0"
    )


def _write_pairs_csv(out: Path, settings: PhantomSettings) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["pair", "patient", "marker", "he", "ihc"])
    for index in range(settings.pairs):
        name = pair_name(index)
        he, ihc = slide_names(name, SUFFIXES[settings.format], Path("slides"))
        writer.writerow([name, f"phantom-{settings.seed}-{index + 1:03d}", settings.marker, he, ihc])
    write_text(out / "pairs.csv", text.getvalue())
