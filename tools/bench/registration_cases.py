"""Pairs whose truth is known, for `bench_registration.py`: people's landmarks, phantoms, and what is done to them."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from tests.fixtures.registration import write_image
from tests.real import test_real_registration as real
from virtual_stain.geometry import Points
from virtual_stain.pairs import read_pairs
from virtual_stain.phantom.truth import read_truth
from virtual_stain.slides.slide import SlideRef, open_slide

ANGLES = (37, 90, 140, 180, 200, 251, 300, 330)
SCALES = (0.5, 0.7, 1.5, 2.0)


@dataclass(frozen=True)
class Case:
    """Two slides, and places that belong together (none for slides that do not)."""

    group: str
    name: str
    he: SlideRef
    ihc: SlideRef
    he_points: Points
    ihc_points: Points
    unit: float
    """What one IHC px counts in the figures: µm (phantoms), or 1 / diagonal (real: rTRE)."""
    um_per_unit: float
    """µm on the IHC per unit."""


def real_cases(root: Path, folder: Path, *, quick: bool) -> Iterator[Case]:
    """Two H&E/IHC pairs; each as it is, turned, mirrored, rescaled, without pixel sizes, and with wrong ones."""
    real.ROOT = str(root)
    for name in real.PAIRS:
        pair = real.landmarked(name)
        with open_slide(SlideRef(pair.ihc)) as slide:
            diagonal = slide.size.diagonal
        for label, angle, mirror, scale, told in _variants(quick):
            place = folder / f"{name} {label}".replace("°", "").replace("×", "x")
            place.mkdir(parents=True, exist_ok=True)
            moved = real.turned(pair, place, angle, mirror, scale)
            he_mpp = None if told is None else (real.MPP,) * 2
            ihc_mpp = None if told is None else (real.MPP / scale * told,) * 2
            unit = 1.0 / (diagonal * scale)
            um = real.MPP * diagonal
            group = f"{name}, real"
            he, ihc = SlideRef(moved.he, he_mpp), SlideRef(moved.ihc, ihc_mpp)
            yield Case(group, label, he, ihc, moved.he_points, moved.ihc_points, unit, um)


def _variants(quick: bool) -> list[tuple[str, float, bool, float, float | None]]:
    """(label, angle, mirrored, scale, factor on the stated pixel size or None for no pixel size)."""
    turned = [(f"{a}°", float(a), False, 1.0, 1.0) for a in ANGLES]
    everything: list[tuple[str, float, bool, float, float | None]] = [("as it is", 0, False, 1.0, 1.0), *turned]
    everything += [("mirrored", 0, True, 1.0, 1.0), *((f"× {s}", 20, False, s, 1.0) for s in SCALES)]
    everything += [(f"× {s}, no mpp", 20, False, s, None) for s in (0.5, 1.0, 2.0)]
    everything += [("mpp 3 % wrong", 140, True, 1.0, 1.03)]
    return everything[::4] if quick else everything


def phantom_cases(root: Path, *, quick: bool) -> Iterator[Case]:
    """The pairs of `hard_phantoms.py`."""
    for folder in sorted(p.parent for p in root.glob("*/pairs.csv")):
        for pair in read_pairs(folder / "pairs.csv")[:: 4 if quick else 1]:
            truth = read_truth(folder, pair.pair)
            group = folder.name.split("-")[0] + ", phantom"
            points = truth.landmarks_he, truth.landmarks_ihc
            yield Case(group, f"{folder.name} {pair.pair}", pair.he, pair.ihc, *points, truth.ihc_mpp, 1.0)


def changed_cases(cases: list[Case], folder: Path) -> Iterator[Case]:
    """Phantoms as small pictures that are cut, torn and wrongly labelled: 30 % of the tissue missing on either side, a
    fragment torn off and turned by 25°, pixel sizes missing or 3 % wrong. Points on what is missing are left out; those
    on a fragment went with it."""
    for case in cases:
        place = folder / case.name.replace(" ", "-")
        place.mkdir(parents=True, exist_ok=True)
        he_rgb, he_points, he_mpp = _overview(case.he, case.he_points)
        ihc_rgb, ihc_points, ihc_mpp = _overview(case.ihc, case.ihc_points)
        he = SlideRef(write_image(place / "he.png", he_rgb), he_mpp)
        ihc = SlideRef(write_image(place / "ihc.png", ihc_rgb), ihc_mpp)
        base = replace(case, he=he, ihc=ihc, he_points=he_points, ihc_points=ihc_points, unit=ihc_mpp[0])
        for label, side, rgb, points in (
            ("30 % missing, IHC", "ihc", ihc_rgb, ihc_points),
            ("30 % missing, H&E", "he", he_rgb, he_points),
        ):
            edge = float(np.quantile(points[:, 0], 0.3))
            cut = rgb.copy()
            cut[:, : round(edge)] = 244
            kept = points[:, 0] > edge + 5
            changed = {side: SlideRef(write_image(place / f"cut-{side}.png", cut), getattr(base, side).mpp_override)}
            marks = {"he_points": he_points[kept], "ihc_points": ihc_points[kept]}
            yield replace(base, group=f"{label}, phantom", **changed, **marks)
        for label, away in (("torn, turned in its place", (0, 0)), ("torn, turned and moved", (40, 130))):
            torn, moved = _torn(ihc_rgb, ihc_points, away)
            path = SlideRef(write_image(place / f"torn-{away[1]}.png", torn), ihc.mpp_override)
            yield replace(base, group=f"{label}, phantom", ihc=path, ihc_points=moved)
        wrong = SlideRef(ihc.path, (ihc_mpp[0] * 0.97, ihc_mpp[1] * 0.97))
        yield replace(base, group="mpp 3 % wrong, phantom", ihc=wrong)
        yield replace(base, group="no mpp, phantom", he=SlideRef(he.path), ihc=SlideRef(ihc.path))


def _overview(ref: SlideRef, points_px0: Points) -> tuple[np.ndarray, Points, tuple[float, float]]:
    """uint8[H, W, 3] at about 4 µm/px, the points in its pixels, and µm per px along x and y: the two differ by the
    rounding of its size, which is half a pixel at its far end."""
    with open_slide(ref) as slide:
        overview = slide.overview(mpp=4.0)
        step = np.diag(overview.px0_from_ov.matrix)[:2]
        assert slide.mpp is not None
        mpp = (float(step[0] * slide.mpp.x), float(step[1] * slide.mpp.y))
        return overview.image, overview.px0_from_ov.inverse().apply(points_px0), mpp


def _torn(rgb: np.ndarray, points: Points, away: tuple[int, int]) -> tuple[np.ndarray, Points]:
    """A fifth of the tissue turned by 25° and moved by `away`, and where all points lie now."""
    height, width = rgb.shape[:2]
    edge = round(float(np.quantile(points[:, 1], 0.8)))
    middle = (float(points[:, 0].mean()), float(points[points[:, 1] > edge, 1].mean()))
    piece = np.full_like(rgb, 244)
    piece[edge:] = rgb[edge:]
    canvas = np.full((height + 260, width + 80, 3), 244, np.uint8)
    matrix = cv2.getRotationMatrix2D(middle, 25, 1.0)
    matrix[:, 2] += away
    size = (canvas.shape[1], canvas.shape[0])
    turned = cv2.warpAffine(piece, matrix, size, flags=cv2.INTER_LINEAR, borderValue=(244,) * 3)
    canvas[:edge, :width] = rgb[:edge]
    moved = np.where(points[:, 1:] > edge, (points - 0.5) @ matrix[:, :2].T + matrix[:, 2] + 0.5, points)
    return np.minimum(canvas, turned), moved


def unrelated_cases(cases: list[Case], count: int) -> list[Case]:
    """The H&E of one block with the IHC of another."""
    crossed = [(a, b) for a, b in itertools.permutations(cases, 2) if a.name != b.name]
    chosen = random.Random(0).sample(crossed, min(count, len(crossed)))
    none = np.zeros((0, 2))
    return [replace(a, group="unrelated", name=f"{a.name} × {b.name}", ihc=b.ihc, he_points=none, ihc_points=none)
            for a, b in chosen]  # fmt: skip
