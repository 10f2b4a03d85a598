"""Harder copies of the real pairs: the IHC bent further, faded, restained, blurred, cropped.

They stand in for pairs of serial sections that are not at hand. The landmarks are carried through the bend, so the
truth is as good as that of the pair itself. Each copy has the twelve variants of `registration_variants.py`. All of one
copy must get the same verdict, and none may be rejected.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from tools.bench.registration_variants import PAIRS, read_points
from virtual_stain.geometry import Points
from virtual_stain.registration.transform import DisplacementField

_STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]], np.float32)
_STEP, _BEND_PX = 8, 80.0


@dataclass(frozen=True)
class StandIn:
    """What is done to the moving image of a pair."""

    name: str
    pair: str
    bend_fraction: float = 0.0
    """Largest displacement over the diagonal."""
    strengths: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Factors on haematoxylin, eosin and DAB."""
    exchanged: bool = False
    """Haematoxylin and DAB change places."""
    blur_px: float = 0.0
    cut_fraction: float = 0.0
    """Of the width that is glass, from the left."""


STAND_INS = (
    StandIn("lung, bent 3 %, DAB faded", "lung", 0.03, (0.7, 1.0, 0.3), blur_px=1.0),
    StandIn("lung, stains exchanged, blurred", "lung", 0.01, (0.6, 0.6, 0.6), exchanged=True, blur_px=2.0),
    StandIn("cd31-cc10, bent 3 %", "cd31-cc10", 0.03),
    StandIn("cd31-cc10, faint counterstain", "cd31-cc10", 0.015, (0.6, 0.8, 1.0), blur_px=1.5, cut_fraction=0.1),
    StandIn("cd31-prospc, stains exchanged, bent 3 %", "cd31-prospc", 0.03, exchanged=True, cut_fraction=0.15),
    StandIn("kidney, bent 3 %, faded", "kidney", 0.03, (0.65, 0.65, 0.5), blur_px=1.5, cut_fraction=0.1),
)


def write_stand_ins(root: Path, folder: Path) -> Iterator[tuple[StandIn, Path]]:
    """Each stand-in, and the folder that holds its pair under the same names as `root` does."""
    for seed, stand_in in enumerate(STAND_INS):
        place = folder / f"stand-in-{seed}"
        fixed, moving = PAIRS[stand_in.pair]
        for stem in (fixed, moving):
            (place / stem).parent.mkdir(parents=True, exist_ok=True)
        for ending in (".jpg", ".csv"):
            shutil.copyfile(f"{root / fixed}{ending}", f"{place / fixed}{ending}")
        image = cv2.imread(f"{root / moving}.jpg")
        assert image is not None
        changed, points = _degraded(image[..., ::-1], read_points(Path(f"{root / moving}.csv")), stand_in, seed)
        assert cv2.imwrite(f"{place / moving}.jpg", changed[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
        with Path(f"{place / moving}.csv").open("w", encoding="utf-8", newline="") as stream:
            table = csv.writer(stream)
            table.writerow(["X", "Y"])
            table.writerows((points - 0.5).round(3).tolist())
        yield stand_in, place


def _degraded(rgb: np.ndarray, points: Points, how: StandIn, seed: int) -> tuple[np.ndarray, Points]:
    height, width = rgb.shape[:2]
    light = _restained(rgb, how)
    if how.cut_fraction:
        light[:, : round(how.cut_fraction * width)] = 243
    if how.blur_px:
        light = cv2.GaussianBlur(light, (0, 0), how.blur_px)
    bend = _bend(np.random.default_rng(2000 + seed), (height, width), how.bend_fraction)
    y, x = np.mgrid[:height, :width].astype(np.float64) + 0.5
    at = np.stack([x, y], axis=-1).reshape(-1, 2)
    source = (at + bend.at(at) - 0.5).astype(np.float32).reshape(height, width, 2)
    bent = cv2.remap(light, source, None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_CONSTANT, borderValue=(243,) * 3)
    # the picture at p shows what lay at p + bend(p): where a landmark went is found by iteration
    moved = points.copy()
    for _ in range(40):
        moved = points - bend.at(moved)
    # landmarks stay row by row; one whose tissue was cut off is put outside the picture
    moved[points[:, 0] < how.cut_fraction * width] = -100.0
    return np.clip(bent, 0, 255).astype(np.uint8), moved


def _restained(rgb: np.ndarray, how: StandIn) -> np.ndarray:
    inks = _STAINS / np.linalg.norm(_STAINS, axis=1, keepdims=True)
    absorbance = -np.log10((rgb.astype(np.float32) + 1) / 244)
    amounts = absorbance @ np.linalg.inv(inks)
    if how.exchanged:
        amounts = amounts[..., ::-1]
    amounts = amounts * np.array(how.strengths, np.float32)
    return np.clip(244 * 10 ** -(amounts @ inks) - 1, 0, 255).astype(np.float32)


def _bend(rng: np.random.Generator, shape: tuple[int, int], fraction: float) -> DisplacementField:
    rows, columns = (side // _STEP + 2 for side in shape)
    noise = [cv2.GaussianBlur(rng.standard_normal((rows, columns)), (0, 0), _BEND_PX / _STEP) for _ in range(2)]
    u = np.stack([n - n.mean() for n in noise], axis=-1)
    u = u * (fraction * np.hypot(*shape) / np.linalg.norm(u, axis=-1).max())
    return DisplacementField((0.0, 0.0), (float(_STEP), float(_STEP)), u.astype(np.float32))
