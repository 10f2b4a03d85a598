"""Alternatives to the parts of the registration, on the same pictures: what was tried, and why it was not kept.

    python tools/bench/bench_registration_parts.py --real REALDATA --phantoms PHANTOMS [--each 1]

Global: ours (all turns and translations by FFT, then ECC); SIFT features with MAGSAC (OpenCV's USAC); phase correlation
of the tissue masks, turn by log-polar spectra; ECC from the middles in 24 turns × 2 mirrors; normalised gradient
fields (registration_ngf.py) over all turns and translations, then ECC from the best. Solved: the median error
of the landmarks below 5 % of the IHC's diagonal. Local, on our affine: windows with a consensus filter (ours), the
same on normalised gradient fields, and dense inverse search flow on our locally normalised images, smoothed. Processor
seconds.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tools.bench.registration_cases import Case, phantom_cases, real_cases
from tools.bench.registration_ngf import ngf, ngf_windows
from virtual_stain.config import RegistrationSettings, TissueSettings
from virtual_stain.registration.estimate import make_level, refine, refine_starts
from virtual_stain.registration.foreground import Foreground
from virtual_stain.registration.raster import Matrix, local_norm, pulled
from virtual_stain.registration.refine import first_pass, refine_locally
from virtual_stain.registration.register import side_images
from virtual_stain.registration.search import find_starts
from virtual_stain.registration.warping import pull, pull_map
from virtual_stain.registration.working import WorkingPair, prepare
from virtual_stain.slides.slide import open_slide

SETTINGS = RegistrationSettings()


def ours(pair: WorkingPair) -> Matrix | None:
    s = SETTINGS
    starts = find_starts(
        pair.fixed,
        pair.moving,
        coarse_px=s.coarse_px,
        angle_step_deg=s.angle_step_deg,
        scales=pair.scales,
        keep=s.starts,
    )
    best = next(refine_starts(pair.fixed, pair.moving, starts, keep=1), None)
    return None if best is None else best.matrix


def features(pair: WorkingPair) -> Matrix | None:
    sift = cv2.SIFT_create(4000)
    pictures = [np.clip(255 - s.density * 120, 0, 255).astype(np.uint8) for s in (pair.fixed, pair.moving)]
    (k1, d1), (k2, d2) = (
        sift.detectAndCompute(p, s.mask.astype(np.uint8)) for p, s in zip(pictures, _sides(pair), strict=True)
    )
    best = [m for m, n in cv2.BFMatcher().knnMatch(d1, d2, k=2) if m.distance < 0.85 * n.distance]
    if len(best) < 4:
        return None
    a, b = (np.float32([k[i].pt for i in index]) for k, index in
            ((k1, [m.queryIdx for m in best]), (k2, [m.trainIdx for m in best])))  # fmt: skip
    found, _ = cv2.estimateAffine2D(a, b, method=cv2.USAC_MAGSAC, ransacReprojThreshold=6, maxIters=20000)
    return None if found is None else np.vstack([found, [0, 0, 1]])


def phase(pair: WorkingPair) -> Matrix | None:
    side = 512
    scale = side / (1.5 * max(*pair.fixed.shape, *pair.moving.shape))
    masks = [_centred(s, scale, side) for s in _sides(pair)]
    best: tuple[float, Matrix | None] = (-1.0, None)
    for mirror in (1.0, -1.0):
        flipped = masks[1][:, ::-1].copy() if mirror < 0 else masks[1]
        polar = [
            cv2.warpPolar(np.abs(np.fft.fftshift(np.fft.fft2(m))).astype(np.float32) ** 0.3, (256, 720),
                          (side / 2, side / 2), side / 2, cv2.WARP_POLAR_LINEAR)
            for m in (masks[0], flipped)
        ]  # fmt: skip
        (_, turn), _ = cv2.phaseCorrelate(polar[0], polar[1])
        for angle in (turn / 2, turn / 2 + 180):
            a = np.deg2rad(angle)
            linear = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
            into = np.eye(3)
            into[:2, :2], into[:2, 2] = linear, side / 2 - linear @ np.full(2, side / 2)
            turned = pulled(flipped, into, (side, side))
            shift, response = cv2.phaseCorrelate(masks[0], turned)
            if response > best[0]:
                move = np.eye(3)
                move[:2, 2] = shift
                flip = np.array([[mirror, 0, side if mirror < 0 else 0], [0, 1, 0], [0, 0, 1]])
                canvas = flip @ into @ move
                best = response, _from_canvas(pair, canvas, scale, side)
    return best[1]


def turns(pair: WorkingPair) -> Matrix | None:
    level = make_level(pair.fixed, pair.moving, 100 / float(np.sqrt(pair.fixed.tissue_px)))
    middles = [np.argwhere(s.mask).mean(axis=0)[::-1] for s in _sides(pair)]
    best: tuple[float, Matrix | None] = (-2.0, None)
    for mirror in (1.0, -1.0):
        for a in np.deg2rad(np.arange(0, 360, 15)):
            start = np.eye(3)
            start[:2, :2] = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]) @ np.diag([mirror, 1])
            start[:2, 2] = middles[1] - start[:2, :2] @ middles[0]
            found = refine(level, start, 40)
            if found is None:
                continue
            warp = level.into_moving @ found @ np.linalg.inv(level.into_fixed)
            seen = pulled(level.moving_parts[0], warp, level.fixed.shape[::-1])
            score = float(np.corrcoef(seen.ravel(), level.fixed_parts[0].ravel())[0, 1])
            if score > best[0]:
                best = score, found
    return best[1]


def dense_flow(pair: WorkingPair, matrix: Matrix) -> np.ndarray:
    """float32[H, W, 2]: displacement of fixed working px."""
    mapping = pull_map(pair.fixed.shape, matrix, None)
    first, second = (np.clip(local_norm(cv2.GaussianBlur(i, (0, 0), 2.0), 20) * 40 + 128, 0, 255).astype(np.uint8)
                     for i in (pair.fixed.density, pull(pair.moving.density, mapping)))  # fmt: skip
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    flow.setFinestScale(2)
    flow.setPatchSize(16)
    flow.setPatchStride(4)
    return cv2.GaussianBlur(flow.calc(first, second, None), (0, 0), 15)


def _sides(pair: WorkingPair) -> tuple[Foreground, Foreground]:
    return pair.fixed, pair.moving


def _centred(side: Foreground, scale: float, canvas: int) -> np.ndarray:
    into = np.array([[1 / scale, 0, side.shape[1] / 2 - canvas / 2 / scale],
                     [0, 1 / scale, side.shape[0] / 2 - canvas / 2 / scale], [0, 0, 1]])  # fmt: skip
    return pulled(cv2.GaussianBlur(side.mask.astype(np.float32), (0, 0), 1 / scale), into, (canvas, canvas))


def _from_canvas(pair: WorkingPair, canvas: Matrix, scale: float, side: int) -> Matrix:
    def place(s: Foreground) -> Matrix:
        return np.array([[scale, 0, side / 2 - s.shape[1] / 2 * scale],
                         [0, scale, side / 2 - s.shape[0] / 2 * scale], [0, 0, 1]])  # fmt: skip

    return np.linalg.inv(place(pair.moving)) @ canvas @ place(pair.fixed)


def error(case: Case, pair: WorkingPair, matrix: Matrix, shifts: np.ndarray | None = None) -> float:
    """Median over the landmarks, IHC level-0 px."""
    points = pair.fixed.px0_from_work.inverse().apply(case.he_points)
    if shifts is not None:
        points = points + shifts
    moved = points @ matrix[:2, :2].T + matrix[:2, 2]
    return float(np.median(np.linalg.norm(pair.moving.px0_from_work.apply(moved) - case.ihc_points, axis=1)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path, required=True)
    parser.add_argument("--phantoms", type=Path)
    parser.add_argument("--each", type=int, default=2, help="every so many-th case")
    options = parser.parse_args()
    solved, seconds, local = defaultdict(list), defaultdict(list), defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        cases = [c for c in real_cases(options.real, Path(folder), quick=False) if "mpp" not in c.name]
        if options.phantoms:
            cases += phantom_cases(options.phantoms, quick=False)
        for case in cases[:: options.each]:
            with open_slide(case.he) as he, open_slide(case.ihc) as ihc:
                pair = prepare(*side_images(he, ihc, SETTINGS, TissueSettings()), SETTINGS)
                diagonal = ihc.size.diagonal
            kind = "real" if "real" in case.group else "phantom"
            for method in (ours, features, phase, turns, ngf):
                start = time.process_time()
                matrix = method(pair)
                seconds[kind, method.__name__].append(time.process_time() - start)
                apart = np.inf if matrix is None else error(case, pair, matrix) / diagonal
                solved[kind, method.__name__].append(apart < 0.05)
                if method is ours and matrix is not None and apart < 0.05:
                    local[case.group, "affine"].append(error(case, pair, matrix) * case.unit)
                    at = pair.fixed.px0_from_work.inverse().apply(case.he_points)
                    first = first_pass(pair.fixed, pair.moving, matrix, SETTINGS)
                    found = refine_locally(pair.fixed, pair.moving, first, SETTINGS)
                    shifts = np.zeros_like(at) if found.field is None else found.field.at(at)
                    local[case.group, "windows"].append(error(case, pair, found.matrix, shifts) * case.unit)
                    found = ngf_windows(pair, matrix, SETTINGS)
                    shifts = np.zeros_like(at) if found.field is None else found.field.at(at)
                    local[case.group, "gradient fields"].append(error(case, pair, found.matrix, shifts) * case.unit)
                    rows, columns = np.clip(at.astype(int)[:, ::-1].T, 0, np.array(pair.fixed.shape)[:, None] - 1)
                    shifts = dense_flow(pair, matrix)[rows, columns]
                    local[case.group, "dense flow"].append(error(case, pair, matrix, shifts) * case.unit)
            print(
                case.group,
                case.name,
                [solved[kind, m][-1] for m in ("ours", "features", "phase", "turns", "ngf")],
                flush=True,
            )
    for key, found in solved.items():
        print(f"global {' '.join(key):20} solved {sum(found)} of {len(found)}, {np.mean(seconds[key]):.1f} processor s")
    for key, values in local.items():
        print(f"local {' '.join(key):30} mean of medians {np.mean(values):.4f}, worst {max(values):.4f}")


if __name__ == "__main__":
    main()
