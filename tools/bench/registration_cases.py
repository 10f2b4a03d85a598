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
from tools.bench.registration_stand_ins import write_stand_ins
from tools.bench.registration_variants import MPP, PAIRS, UNTOLD, VARIANTS, variants_of
from virtual_stain.geometry import Points
from virtual_stain.pairs import read_pairs
from virtual_stain.phantom.truth import read_truth
from virtual_stain.slides.slide import SlideRef, open_slide


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
    upright_from_ihc: np.ndarray | None = None
    """float64[3, 3]: of a variant, to the px of the IHC as it is: maps of one pair can then be compared."""


def real_cases(root: Path, folder: Path, *, quick: bool) -> Iterator[Case]:
    """Five pairs of serial sections, each in twelve variants, then with missing and wrong pixel sizes."""
    for name in PAIRS:
        for told, variants in (("", VARIANTS), (", mpp missing or wrong", UNTOLD)):
            for pair in variants_of(name, root, folder, variants[::4] if quick else variants):
                diagonal = pair.diagonal * pair.variant.scale
                yield Case(
                    f"{name}, real{told}", pair.variant.name, pair.he, pair.ihc, pair.he_points, pair.ihc_points,
                    1.0 / diagonal, MPP * pair.diagonal, pair.upright_from_variant,
                )  # fmt: skip


def stand_in_cases(root: Path, folder: Path, *, quick: bool) -> Iterator[Case]:
    """Harder copies of the real pairs, each in twelve variants."""
    for stand_in, place in write_stand_ins(root, folder / "stand-ins"):
        written = place / "variants"
        for pair in variants_of(stand_in.pair, place, written, VARIANTS[::4] if quick else VARIANTS):
            yield Case(
                f"stand-in: {stand_in.name}", pair.variant.name, pair.he, pair.ihc, pair.he_points, pair.ihc_points,
                1.0 / (pair.diagonal * pair.variant.scale), MPP * pair.diagonal, pair.upright_from_variant,
            )  # fmt: skip


def scanner_cases(root: Path) -> Iterator[Case]:
    """One glass on two scanners, no pixel size told; figures in px of the second scan."""
    folder = root / "wsireg_4scanner"
    for path in sorted(folder.glob("*_derived_matches.csv")):
        first, second = path.name.removesuffix("_derived_matches.csv").split("__")
        second = f"{first.split('_')[0]}_{second}"
        sides = [next(p for p in folder.glob(f"{side}.*")) for side in (first, second)]
        matches = np.loadtxt(path, delimiter=",", skiprows=2)
        refs = [SlideRef(p) for p in sides]
        yield Case("scanners, px", f"{first} {second}", *refs, matches[:, :2], matches[:, 2:], 1.0, 1.0)


def unrelated_real_cases(root: Path) -> Iterator[Case]:
    """Real slides that do not belong together: other organs, another lesion of the same lung, two cytology slides, and
    pictures that are tissue from edge to edge, also in one stain."""
    stems = dict.fromkeys(stem for pair in PAIRS.values() for stem in pair)
    organs = [(SlideRef((root / stem).with_suffix(".jpg"), (MPP, MPP)), "kidney" in stem.lower()) for stem in stems]
    none = np.zeros((0, 2))
    for (he, first), (ihc, second) in itertools.permutations(organs, 2):
        # of the lung there are two lesions, in two folders
        if first != second or he.path.parent != ihc.path.parent:
            yield Case("unrelated, real", f"{he.path.stem} × {ihc.path.stem}", he, ihc, none, none, 1.0, 1.0)
    cyto = sorted((root / "wsireg_4scanner").glob("cyto*.*"))
    scans = [SlideRef(p) for p in cyto if p.suffix != ".csv"]
    for he, ihc in itertools.product(scans, scans):
        if he.path.name.startswith("cyto574162") and ihc.path.name.startswith("cyto563479"):
            yield Case("unrelated, cytology", f"{he.path.stem} × {ihc.path.stem}", he, ihc, none, none, 1.0, 1.0)
    kidney = [root / "kidney_stains" / f"stain_{number}.png" for number in ("01", "32", "39")]
    filled = [SlideRef(p, (0.5, 0.5)) for p in (*kidney, root / "skimage_ihc" / "ihc.png")]
    breast = [root / "deepliif/Sample_Large_Tissues" / f"ROI_{number}.png" for number in ("1", "127", "7")]
    one_stain = [SlideRef(p, (0.25, 0.25)) for p in breast]
    for he, ihc in (*itertools.combinations(filled, 2), *itertools.permutations(one_stain, 2)):
        yield Case("unrelated, edge to edge", f"{he.path.stem} × {ihc.path.stem}", he, ihc, none, none, 1.0, 1.0)


def other_half_cases(root: Path, folder: Path) -> Iterator[Case]:
    """One half of a section with the other half of its neighbour, a tenth of the picture apart: one tissue, one pair of
    stains, edge to edge, and no place in common."""
    folder.mkdir(parents=True, exist_ok=True)
    none = np.zeros((0, 2))
    halves = ((0.0, 0.45), (0.55, 1.0))
    for axis, (name, stems) in itertools.product((0, 1), PAIRS.items()):
        for first, second in (halves, halves[::-1]):
            refs = []
            for side, stem, (low, high) in zip(("he", "ihc"), stems, (first, second), strict=True):
                image = cv2.imread(str(root / f"{stem}.jpg"))
                assert image is not None
                part = slice(int(low * image.shape[axis]), int(high * image.shape[axis]))
                path = folder / f"{name}-{axis}-{first[0]}-{side}.png"
                assert cv2.imwrite(str(path), image[part] if axis == 0 else image[:, part])
                refs.append(SlideRef(path, (MPP, MPP)))
            label = f"{name}, {('rows', 'columns')[axis]} from {first[0]:.0%}"
            yield Case("unrelated, other half", label, refs[0], refs[1], none, none, 1.0, 1.0)


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
