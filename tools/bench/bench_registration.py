"""Measures registration on everything whose truth is known, and prints one table.

    python tools/bench/hard_phantoms.py PHANTOMS                            (once; 20 minutes of one core)
    python tools/bench/bench_registration.py --real REALDATA --phantoms PHANTOMS --bent 30 --unrelated 40 --rival
    python tools/bench/bench_registration.py --real REALDATA --stand-ins    (ten minutes)
    python tools/bench/bench_registration.py --real REALDATA --quick        (a minute)

    python tools/bench/bench_registration.py --real REALDATA --bent 6 --unrelated 40 --only unrelated

REALDATA holds `birl_pairs` and `lung_serial` (five pairs of serial sections with people's landmarks, each in twelve
variants that must not change the answer, then with missing and wrong pixel sizes) and `wsireg_4scanner` (one glass on
several scanners). --stand-ins: copies of the real pairs, bent further, faded, restained, blurred, cropped. --bent:
phantoms of the size of thumbnails with bends, tears and folds. --rival: SimpleITK and, where its module is installed,
elastix on the same pictures in the same run.

Columns: pairs; solved (right, and not rejected; of unrelated slides: rejected);
mean of the medians, mean of the 90th percentiles, the worst median (rTRE: error in IHC px / diagonal of the IHC image;
µm for phantoms); how much of the mean the medians spread (largest − smallest); the share of points whose error lies
below the p95 stated for their place (or where none is stated), mean and least; processor seconds a pair, mean and most;
of variants: the largest median distance over the tissue between the map of a variant, composed back, and that of the
first one, px of the H&E; the verdicts that were given.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tools.bench.bent_phantoms import bent_cases, unrelated_array_cases
from tools.bench.registration_cases import (
    Case,
    changed_cases,
    other_half_cases,
    phantom_cases,
    real_cases,
    scanner_cases,
    stand_in_cases,
    unrelated_cases,
    unrelated_real_cases,
)
from tools.bench.registration_rival import rivals
from virtual_stain.config import RegistrationSettings, TissueSettings
from virtual_stain.registration.register import register_pair
from virtual_stain.registration.result import Registration
from virtual_stain.slides.slide import Slide, open_slide
from virtual_stain.slides.tissue import find_tissue

_RIGHT_RTRE, _RIGHT_UM = 0.02, 30.0  # a pair that is not rejected is solved only if its median error is below this
_RIVAL_TURNS = ("upright", "37°", "180°")  # it takes many times as long: on some cases only
_RIVAL_PHANTOM = "p001"


@dataclass(frozen=True)
class Line:
    """One pair's figures."""

    solved: bool
    median: float
    p90: float
    below: float
    seconds: float
    verdict: str = ""
    places: np.ndarray | None = None
    """Of variants: where the H&E's tissue lies on the IHC as it is."""


def measure(case: Case) -> Line:
    start = time.process_time()
    with open_slide(case.he) as he, open_slide(case.ihc) as ihc:
        r = register_pair(he, ihc, RegistrationSettings(), TissueSettings())
        seconds = time.process_time() - start
        places = None if case.upright_from_ihc is None else _places(he, r, case.upright_from_ihc)
    if not len(case.he_points):
        _say(case, r, f"{r.verdict} 1e{r.chance_log10:.1f}", seconds)
        return Line(r.verdict == "reject", np.nan, np.nan, np.nan, seconds, str(r.verdict))
    error_px = np.linalg.norm(r.transform.to_ihc(case.he_points) - case.ihc_points, axis=1)
    _, told = r.evidence.errors_at(case.he_points)
    error, below = error_px * case.unit, np.nan
    if r.verdict is not None:
        below = float(np.mean(error * case.um_per_unit < told))
    median = float(np.median(error))
    right = median < (_RIGHT_RTRE if case.um_per_unit > 1 else _RIGHT_UM)
    solved = right and r.error_median_px0 is not None and r.verdict != "reject"
    line = Line(solved, median, float(np.percentile(error, 90)), below, seconds, str(r.verdict), places)
    stated = "" if r.error_median_um is None else f"told {r.error_median_um:.1f} {r.error_p95_um:.1f} µm "
    _say(case, r, f"{line.median:.4g} {line.p90:.4g} {stated}{below:.2f}", seconds)
    return line


def _places(he: Slide, r: Registration, upright_from_ihc: np.ndarray) -> np.ndarray:
    tissue = find_tissue(he, TissueSettings())
    rows, columns = np.nonzero(tissue.mask)
    some = np.linspace(0, len(rows) - 1, 1500).astype(int)
    points = tissue.px0_from_ov.apply(np.stack([columns[some], rows[some]], axis=1) + 0.5)
    return r.transform.to_ihc(points) @ upright_from_ihc[:2, :2].T + upright_from_ihc[:2, 2]


def measure_rival(case: Case, name: str) -> Line:
    mapped, seconds = rivals()[name](case.he, case.ihc, case.he_points)
    error = np.linalg.norm(mapped - case.ihc_points, axis=1) * case.unit
    # it has no verdict: solved is what a person would call right, within 5 % of the diagonal or 150 µm
    limit = 0.05 if case.um_per_unit > 1 else 150.0
    median, p90 = float(np.median(error)), float(np.percentile(error, 90))
    print(f"  {case.group:28} {case.name:30} {name} {median:.4g} {p90:.4g} {seconds:.1f} s", flush=True)
    return Line(median < limit, median, p90, np.nan, seconds)


def _say(case: Case, r: Registration, text: str, seconds: float) -> None:
    print(f"  {case.group:28} {case.name:30} {text} {seconds:.1f} s {' '.join(r.flags)}", flush=True)


def table(lines: dict[str, list[Line]]) -> str:
    head = f"{'':38} pairs solved   median      p90    worst  spread  below p95 (least)  s a pair (most)"
    head += "  variant px  verdicts"
    rows = [head]
    for group, found in lines.items():
        median, p90 = (np.array([getattr(x, k) for x in found if x.solved]) for k in ("median", "p90"))
        below = np.array([x.below for x in found if np.isfinite(x.below) and x.solved])
        told = f"{below.mean():9.3f} ({below.min():.2f})" if len(below) else " " * 16
        seconds = np.array([x.seconds for x in found])
        if np.isfinite(median).any():
            spread = np.ptp(median) / median.mean()
            errors = f"{median.mean():8.4f} {p90.mean():8.4f} {median.max():8.4f} {spread:7.0%}"
        else:
            errors = " " * 34
        solved = sum(x.solved for x in found)
        verdicts = " ".join(f"{n} {v}" for v, n in Counter(x.verdict for x in found if x.verdict).most_common())
        row = f"{group:38} {len(found):5} {solved:6} {errors} {told} {seconds.mean():8.1f} ({seconds.max():.1f})"
        rows.append(f"{row}  {_variant_px(found):>10}  {verdicts}")
    return "\n".join(rows)


def _variant_px(found: list[Line]) -> str:
    maps = [x.places for x in found if x.places is not None]
    if len(maps) < 2:
        return ""
    return f"{max(float(np.median(np.linalg.norm(m - maps[0], axis=1))) for m in maps[1:]):.2f}"


def run(cases: Iterable[Case], lines: dict[str, list[Line]], *, rival: bool, only: str = "") -> None:
    for case in cases:
        if only not in case.group:
            continue
        lines[case.group].append(measure(case))
        if rival and (case.name in _RIVAL_TURNS or case.name.endswith(_RIVAL_PHANTOM)):
            for name in rivals():
                lines[f"{case.group}, {name}"].append(measure_rival(case, name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path, help="folder with birl_pairs, lung_serial, wsireg_4scanner")
    parser.add_argument("--phantoms", type=Path, help="output of hard_phantoms.py")
    parser.add_argument("--changed", type=int, default=6, help="phantoms that are also cut, torn and mislabelled")
    parser.add_argument("--unrelated", type=int, default=0, help="pairs of slides that do not belong together")
    parser.add_argument("--bent", type=int, default=0, help="bent phantoms")
    parser.add_argument("--stand-ins", action="store_true", help="harder copies of the real pairs")
    parser.add_argument("--rival", action="store_true", help="SimpleITK and elastix side by side (slow)")
    parser.add_argument("--quick", action="store_true", help="every fourth case")
    parser.add_argument("--only", default="", help="groups whose name holds this text")
    options = parser.parse_args()
    lines: dict[str, list[Line]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        if options.real:
            run(
                real_cases(options.real, Path(folder), quick=options.quick),
                lines,
                rival=options.rival,
                only=options.only,
            )
            run(scanner_cases(options.real), lines, rival=False, only=options.only)
            if options.stand_ins:
                run(
                    stand_in_cases(options.real, Path(folder), quick=options.quick),
                    lines,
                    rival=False,
                    only=options.only,
                )
            if options.unrelated:
                run(unrelated_real_cases(options.real), lines, rival=False, only=options.only)
                run(other_half_cases(options.real, Path(folder) / "halves"), lines, rival=False, only=options.only)
        if options.unrelated:
            run(unrelated_array_cases(Path(folder)), lines, rival=False, only=options.only)
        if options.bent:
            bent = list(bent_cases(Path(folder), options.bent))
            run(bent, lines, rival=options.rival, only=options.only)
            run(unrelated_cases(bent, options.unrelated // 2), lines, rival=False, only=options.only)
        if options.phantoms:
            cases = list(phantom_cases(options.phantoms, quick=options.quick))
            run(cases, lines, rival=options.rival, only=options.only)
            few = cases[:: max(1, len(cases) // options.changed)][: options.changed] if options.changed else []
            run(changed_cases(few, Path(folder)), lines, rival=False, only=options.only)
            run(unrelated_cases(cases, options.unrelated), lines, rival=False, only=options.only)
    print("\n" + table(lines))


if __name__ == "__main__":
    main()
