"""Measures registration: error against landmarks and truth, calibration of the stated error, rejections, seconds.

    python tools/bench/bench_registration.py --real REALDATA [--quick]
    python tools/bench/bench_registration.py --phantom FOLDER [--phantom FOLDER …] [--unrelated 20]

REALDATA holds `birl_pairs`; each pair is also turned by 8 angles, mirrored and rescaled by 0.5–2, with and without
pixel sizes (--quick: four of these). FOLDER is an output of `vstain phantom`. --unrelated N also registers N pairs
of slides that do not belong together; all must be rejected. About 3 s a line on one free core.

Columns: median and p90 of the error (rTRE: error in IHC px / diagonal of the IHC image; phantoms: µm); the same of
the affine alone; the stated median and p95; the share of points whose error lies below the p95 stated for their place.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.real import test_real_registration as real
from virtual_stain.config import RegistrationSettings, TissueSettings
from virtual_stain.geometry import Points
from virtual_stain.pairs import read_pairs
from virtual_stain.phantom.truth import read_truth
from virtual_stain.registration.register import register_pair
from virtual_stain.registration.result import RAYLEIGH_P95, Registration
from virtual_stain.slides.slide import SlideRef, open_slide

ANGLES = (37, 90, 140, 180, 200, 251, 300, 330)
SCALES = (0.5, 0.7, 1.5, 2.0)


def register(he: SlideRef, ihc: SlideRef) -> tuple[Registration, float]:
    start = time.perf_counter()
    with open_slide(he) as a, open_slide(ihc) as b:
        return register_pair(a, b, RegistrationSettings(), TissueSettings()), time.perf_counter() - start


def line(name: str, r: Registration, seconds: float, errors: list[np.ndarray], below: float, unit: str) -> None:
    numbers = " ".join(f"{np.median(e):8.4g} {np.percentile(e, 90):8.4g}" for e in errors)
    verdict = "none" if r.verdict is None else r.verdict.value
    stated = [r.error_median_um, r.error_p95_um] if r.verdict else [r.error_median_px0, r.error_p95_px0]
    told = " ".join("     –" if v is None else f"{v:6.1f}" for v in stated)
    print(
        f"{name:28} {numbers} {unit:4} {told} {below:5.2f}  {verdict:7} {seconds:5.1f} s  {' '.join(r.flags)}",
        flush=True,
    )


def variants(quick: bool) -> list[tuple[str, float, bool, float, bool]]:
    everything = [("as it is", 0, False, 1.0, True), *((f"{a}°", a, False, 1.0, True) for a in ANGLES)]
    everything += [("mirrored", 0, True, 1.0, True), *((f"× {s}", 20, False, s, True) for s in SCALES)]
    everything += [(f"× {s}, no mpp", 20, False, s, False) for s in (0.5, 1.0, 2.0)]
    return everything[::4] if quick else everything


def bench_real(quick: bool) -> None:
    medians = []
    for name in real.PAIRS:
        pair = real.landmarked(name)
        with open_slide(SlideRef(pair.ihc)) as slide:
            diagonal = slide.size.diagonal
        for label, angle, mirror, scale, known in variants(quick):
            with tempfile.TemporaryDirectory() as folder:
                moved = real.turned(pair, Path(folder), angle, mirror, scale)
                mpp = [(real.MPP, real.MPP), (real.MPP / scale,) * 2] if known else [None, None]
                r, seconds = register(SlideRef(moved.he, mpp[0]), SlideRef(moved.ihc, mpp[1]))
            whole = moved.errors_px(r) / scale
            affine = np.linalg.norm(r.transform.ihc_from_he.apply(moved.he_points) - moved.ihc_points, axis=1) / scale
            told = r.evidence.sigma_at(moved.he_points) * RAYLEIGH_P95 * r.evidence.p95_margin_fraction
            below = float(np.mean(whole * (real.MPP if known else 1.0) < told))
            line(f"{name}, {label}", r, seconds, [whole / diagonal, affine / diagonal], below, "rTRE")
            medians.append(np.median(whole) / diagonal)
    print(f"mean of median rTRE {np.mean(medians):.4f}, worst {max(medians):.4f}, {len(medians)} pairs")


def bench_phantom(folders: list[Path]) -> None:
    below_all: list[float] = []
    for folder in folders:
        for pair in read_pairs(folder / "pairs.csv"):
            truth = read_truth(folder, pair.pair)
            r, seconds = register(pair.he, pair.ihc)

            def error(mapped: Points, truth=truth) -> np.ndarray:
                return np.asarray(np.linalg.norm(mapped - truth.landmarks_ihc, axis=1) * truth.ihc_mpp)

            whole = error(r.transform.to_ihc(truth.landmarks_he))
            affine = error(r.transform.ihc_from_he.apply(truth.landmarks_he))
            below = float(np.mean(whole < r.error_at_um(truth.landmarks_he)[1]))
            below_all.append(below)
            line(f"{folder.name} {pair.pair}", r, seconds, [whole, affine], below, "µm")
    print(f"below the stated p95: {np.mean(below_all):.3f} of the landmarks")


def bench_unrelated(folders: list[Path], count: int) -> None:
    pairs = [p for folder in folders for p in read_pairs(folder / "pairs.csv")]
    crossed = [(a, b) for a, b in itertools.permutations(pairs, 2) if a.he.path != b.he.path]
    rejected = 0
    chosen = random.Random(0).sample(crossed, min(count, len(crossed)))
    for a, b in chosen:
        r, seconds = register(a.he, b.ihc)
        rejected += r.verdict == "reject"
        names = f"{a.he.path.parents[1].name}/{a.pair} × {b.he.path.parents[1].name}/{b.pair}"
        print(f"{names:44} {r.verdict} 1e{r.chance_log10:.1f} {seconds:.1f} s {' '.join(r.flags)}", flush=True)
    print(f"unrelated pairs rejected: {rejected} of {len(chosen)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path, help="folder with birl_pairs")
    parser.add_argument("--phantom", type=Path, action="append", default=[], help="output of vstain phantom")
    parser.add_argument("--unrelated", type=int, default=0, help="pairs of slides that do not belong together")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    if options.real:
        real.ROOT = str(options.real)
        bench_real(options.quick)
    if options.phantom:
        bench_phantom(options.phantom)
    if options.unrelated:
        bench_unrelated(options.phantom, options.unrelated)


if __name__ == "__main__":
    main()
