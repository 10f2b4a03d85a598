"""Pairs of neighbouring sections at the scale of thumbnails, bent as real ones are: drawn in a second, truth exact.

Tissue of 2–2.5 mm side at 3.5 µm/px. Both sections share structures of 15 µm and more; anything finer each has for
itself. The IHC section is turned in any way, half of them mirrored, bent smoothly by up to 3 % of the diagonal, and has
a tear that gapes, a fold that hides tissue, or both. No slide file is as large as these pictures, and no real picture
has a truth as exact.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from tools.bench.registration_cases import Case
from virtual_stain.geometry import Points
from virtual_stain.registration.transform import DisplacementField
from virtual_stain.slides.slide import SlideRef

MPP = 3.5
_SHAPE = (661, 892)
_MARGIN = 130  # px of glass on each side of the IHC picture, for what is turned
_HAEMATOXYLIN, _EOSIN, _DAB = (0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78)
_LARGEST_SLOPE = 0.3
_POINTS = 150
_CORE_PITCH, _CORE_RADIUS, _CORE_JITTER, _CORES_LOST = 98, 40, 3.0, 0.06  # px; share


@dataclass(frozen=True)
class _Section:
    """Maps of one section in H&E px, float32[H, W]: absorbance of nuclei and of all else."""

    nuclei: np.ndarray
    rest: np.ndarray


def bent_cases(folder: Path, count: int = 30) -> Iterator[Case]:
    """`count` pairs, each of its own tissue; images are written into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(count):
        he, ihc, he_points, ihc_points = bent_pair(seed)
        refs = []
        for side, rgb in (("he", he), ("ihc", ihc)):
            path = folder / f"bent{seed:02}-{side}.png"
            assert cv2.imwrite(str(path), rgb[..., ::-1])
            refs.append(SlideRef(path, (MPP, MPP)))
        yield Case("bent, phantom", f"bent{seed:02}", refs[0], refs[1], he_points, ihc_points, MPP, 1.0)


def unrelated_array_cases(folder: Path, arrays: int = 3) -> Iterator[Case]:
    """The H&E of one tissue array with the IHC of another one of the same layout: cores fall on cores, and outlines
    agree as well as those of one block do."""
    folder.mkdir(parents=True, exist_ok=True)
    none = np.zeros((0, 2))
    sides = []
    for seed in range(arrays):
        rng = np.random.default_rng(5000 + seed)
        common = _structures(rng)
        lumens = _noise(rng, _SHAPE, 8) > 1.5
        he, ihc = _pictures(dict(common, tissue=_cores(rng) & ~lumens), rng)
        refs = []
        for side, rgb in (("he", he), ("ihc", ihc)):
            path = folder / f"array{seed}-{side}.png"
            assert cv2.imwrite(str(path), rgb[..., ::-1])
            refs.append(SlideRef(path, (MPP, MPP)))
        sides.append(refs)
    for (i, (he_ref, _)), (j, (_, ihc_ref)) in itertools.permutations(enumerate(sides), 2):
        yield Case("unrelated, arrays", f"array {i} × array {j}", he_ref, ihc_ref, none, none, 1.0, 1.0)


def _cores(rng: np.random.Generator) -> np.ndarray:
    """bool[H, W]: round cores on one grid, some of them lost; which ones is alike in all arrays."""
    layout = np.random.default_rng(0)
    y, x = np.mgrid[: _SHAPE[0], : _SHAPE[1]].astype(np.float32)
    cores = np.zeros(_SHAPE, bool)
    for row, column in itertools.product(range(6), range(8)):
        middle = 60 + _CORE_PITCH * np.array([column, row]) + rng.normal(0, _CORE_JITTER, 2)
        if layout.uniform() >= _CORES_LOST:
            cores |= np.hypot(x - middle[0], y - middle[1]) < _CORE_RADIUS + rng.normal()
    return cores


def _pictures(common: dict[str, np.ndarray], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """H&E and IHC of two sections that lie on each other, uint8[H, W, 3] each."""
    he, ihc = (_section(common, rng) for _ in range(2))
    brown = ihc.nuclei * (_noise(rng, _SHAPE, 60) > 0.3)
    stains = [(ihc.nuclei, _HAEMATOXYLIN, 0.35), (brown, _DAB, 0.6), (ihc.rest, _HAEMATOXYLIN, 0.06)]
    stains.append((ihc.rest, _DAB, 0.06))
    return _picture([(he.nuclei, _HAEMATOXYLIN, 0.55), (he.rest, _EOSIN, 0.4)], rng), _picture(stains, rng)


def bent_pair(seed: int) -> tuple[np.ndarray, np.ndarray, Points, Points]:
    """(H&E, IHC as uint8[H, W, 3], and points that belong together: their px, at + 0.5)."""
    rng = np.random.default_rng(1000 + seed)
    common = _structures(rng)
    he_section, ihc_section = (_section(common, rng) for _ in range(2))
    tissue = common["tissue"]
    size = (_SHAPE[1] + 2 * _MARGIN, _SHAPE[0] + 2 * _MARGIN)
    place = _Place(rng, seed, size)
    y, x = np.mgrid[: size[1], : size[0]].astype(np.float32) + np.float32(0.5)
    sources, gap = place.he_from_ihc(np.stack([x, y], axis=-1).reshape(-1, 2))
    maps = [s.reshape(size[1], size[0], 2).astype(np.float32) - 0.5 for s in sources]
    positive = _noise(rng, _SHAPE, 60) > 0.3
    ihc_nuclei, ihc_rest = np.zeros((size[1], size[0]), np.float32), np.zeros((size[1], size[0]), np.float32)
    brown = np.zeros_like(ihc_rest)
    for m in maps:  # where tissue is folded, two places lie on each other
        ihc_nuclei += cv2.remap(ihc_section.nuclei, m, None, cv2.INTER_LINEAR)
        ihc_rest += cv2.remap(ihc_section.rest, m, None, cv2.INTER_LINEAR)
        brown += cv2.remap(ihc_section.nuclei * positive, m, None, cv2.INTER_LINEAR)
    for image in (ihc_nuclei, ihc_rest, brown):
        image[gap.reshape(image.shape)] = 0.0
    he = _picture([(he_section.nuclei, _HAEMATOXYLIN, 0.55), (he_section.rest, _EOSIN, 0.4)], rng)
    stains = [(ihc_nuclei, _HAEMATOXYLIN, 0.35), (brown, _DAB, 0.6), (ihc_rest, _HAEMATOXYLIN, 0.06)]
    stains.append((ihc_rest, _DAB, 0.06))
    he_points, ihc_points = _points(rng, place, tissue, size)
    return he, _picture(stains, rng), he_points, ihc_points


class _Place:
    """Where each place of the IHC picture comes from: pose, bend, tear, fold."""

    def __init__(self, rng: np.random.Generator, seed: int, size: tuple[int, int]) -> None:
        self.size = np.array(size, float)
        angle = rng.uniform(0, 2 * np.pi)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        stretch = np.diag(1 + rng.uniform(-0.03, 0.03, 2))
        self.linear = turn @ stretch @ np.diag([-1.0 if seed % 2 else 1.0, 1.0])
        self.bend = self._bend(rng, (0.01, 0.02, 0.03)[seed % 3])
        self.tear = self._line(rng) if seed % 4 in (1, 3) else None
        self.fold = self._line(rng) if seed % 4 in (2, 3) else None
        self.gap_px, self.fold_px = rng.uniform(8, 20), rng.uniform(8, 18)

    def _bend(self, rng: np.random.Generator, fraction: float) -> DisplacementField:
        u = np.stack([_noise(rng, (_SHAPE[0] // 4, _SHAPE[1] // 4), 30) for _ in range(2)], axis=-1)
        u *= fraction * np.hypot(*_SHAPE) / np.abs(u).max()
        steepest = max(np.abs(np.diff(u, axis=a)).max() / 4 for a in (0, 1))
        return DisplacementField((2.0, 2.0), (4.0, 4.0), (u * min(1.0, _LARGEST_SLOPE / steepest)).astype(np.float32))

    def _line(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        angle = rng.uniform(0, np.pi)
        middle = np.array(_SHAPE[::-1]) / 2 + rng.uniform(-120, 120, 2)
        return middle, np.array([np.cos(angle), np.sin(angle)])

    def he_from_ihc(self, ihc: Points) -> tuple[list[Points], np.ndarray]:
        """([float64[N, 2], …] the places of the H&E that lie there, one or, in a fold, two; bool[N]: in a gap)."""
        p = (ihc - self.size / 2) @ np.linalg.inv(self.linear).T + np.array(_SHAPE[::-1]) / 2
        gap = np.zeros(len(p), bool)
        if self.tear is not None:
            # gapes at one end, closes at the middle of the tissue
            middle, along = self.tear
            depth = (p - middle) @ along
            across = (p - middle) @ np.array([-along[1], along[0]])
            half = self.gap_px / 2 * np.clip(depth / 150, 0, 1)
            gap = (np.abs(across) < half) & (depth > 0)
            fade = np.exp(-np.abs(across) / 150)
            p = p - (np.sign(across) * half * fade)[:, None] * np.array([-along[1], along[0]])
        p = p + self.bend.at(p)
        if self.fold is None:
            return [p], gap
        middle, along = self.fold
        normal = np.array([-along[1], along[0]])
        across = (p - middle) @ normal
        shift = self.fold_px / 2 * normal
        here = np.where((across > 0)[:, None], p + shift, p - shift)
        other = np.where((across > 0)[:, None], p - shift, p + shift)
        other[np.abs(across) > self.fold_px / 2] = -1e4
        return [here, other], gap


def _structures(rng: np.random.Generator) -> dict[str, np.ndarray]:
    height, width = _SHAPE
    y, x = np.mgrid[:height, :width].astype(np.float32)
    radius = np.hypot((x - width / 2) / (0.44 * width), (y - height / 2) / (0.42 * height))
    tissue = radius + 0.14 * _noise(rng, _SHAPE, 40) < 1
    nests = 1 / (1 + np.exp(-3 * _noise(rng, _SHAPE, 14)))
    lumens = _noise(rng, _SHAPE, 8) > 1.5
    return {"tissue": tissue & ~lumens, "nests": nests, "middle": _noise(rng, _SHAPE, 5)}


def _section(common: dict[str, np.ndarray], rng: np.random.Generator) -> _Section:
    tissue = cv2.GaussianBlur(common["tissue"].astype(np.float32), (0, 0), 1.2)
    own = _noise(rng, _SHAPE, 2.0), _noise(rng, _SHAPE, 4.0)
    nuclei = common["nests"] * np.clip(0.9 + 0.3 * common["middle"] + 0.35 * own[0] + 0.2 * own[1], 0.05, 2)
    rest = np.clip(0.7 + 0.2 * common["middle"] + 0.2 * own[1], 0.1, 2) * (1.2 - common["nests"])
    return _Section((nuclei * tissue).astype(np.float32), (rest * tissue).astype(np.float32))


def _picture(stains: list[tuple[np.ndarray, tuple[float, ...], float]], rng: np.random.Generator) -> np.ndarray:
    absorbance = sum(a[..., None] * strength * np.array(ink, np.float32) for a, ink, strength in stains)
    light = 243.0 * 10 ** -np.asarray(absorbance, np.float32) + rng.normal(0, 1.5, (*stains[0][0].shape, 3))
    return np.clip(light, 0, 255).astype(np.uint8)


def _points(
    rng: np.random.Generator, place: _Place, tissue: np.ndarray, size: tuple[int, int]
) -> tuple[Points, Points]:
    ihc = rng.uniform(0, 1, (20 * _POINTS, 2)) * np.array(size)
    sources, gap = place.he_from_ihc(ihc)
    he = sources[0]
    column, row = np.floor(he).astype(int).T
    inside = (column >= 0) & (row >= 0) & (column < _SHAPE[1]) & (row < _SHAPE[0]) & ~gap
    inside[inside] = tissue[row[inside], column[inside]]
    return he[inside][:_POINTS], ihc[inside][:_POINTS]


def _noise(rng: np.random.Generator, shape: tuple[int, int], sigma: float) -> np.ndarray:
    """float32[H, W]: smooth, mean 0, standard deviation 1."""
    field = cv2.GaussianBlur(rng.standard_normal(shape).astype(np.float32), (0, 0), sigma)
    return np.asarray((field - field.mean()) / field.std(), np.float32)
