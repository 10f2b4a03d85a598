"""Harder copies of the real pairs: the IHC bent further, faded, restained, blurred, cropped; either side in the colours
of another stain.

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
    fixed_as: str | None = None
    """The stain whose colours the fixed image gets: one of DYES, or None."""
    moving_as: str | None = None


DYES = {
    # brown becomes eosin: what a marker showed is then to be seen no more than any other tissue
    "H&E": np.array([[1.1, 0.35, 0.0], [0.1, 1.0, 0.0], [0.25, 0.6, 0.0]], np.float32),
    # a pale counterstain; nuclei are brown in patches (`_restained`)
    "Ki67": np.array([[0.55, 0.0, 0.0], [0.25, 0.1, 0.05], [0.3, 0.0, 0.05]], np.float32),
}
"""Rows: haematoxylin, eosin and DAB as they are; columns: what each adds to the three."""
_KI67_PATCH_PX, _KI67_BROWN = 25.0, 0.7

STAND_INS = (
    StandIn("lung, bent 3 %, DAB faded", "lung", 0.03, (0.7, 1.0, 0.3), blur_px=1.0),
    StandIn("lung, stains exchanged, blurred", "lung", 0.01, (0.6, 0.6, 0.6), exchanged=True, blur_px=2.0),
    StandIn("cd31-cc10, bent 3 %", "cd31-cc10", 0.03),
    StandIn("cd31-cc10, faint counterstain", "cd31-cc10", 0.015, (0.6, 0.8, 1.0), blur_px=1.5, cut_fraction=0.1),
    StandIn("cd31-prospc, stains exchanged, bent 3 %", "cd31-prospc", 0.03, exchanged=True, cut_fraction=0.15),
    StandIn("kidney, bent 3 %, faded", "kidney", 0.03, (0.65, 0.65, 0.5), blur_px=1.5, cut_fraction=0.1),
    StandIn("cd31-cc10 as H&E / Ki67, bent 1.5 %", "cd31-cc10", 0.015, fixed_as="H&E", moving_as="Ki67"),
    StandIn("cd31-prospc as H&E / proSPC, bent 2 %", "cd31-prospc", 0.02, fixed_as="H&E"),
    StandIn("cc10-prospc as H&E / Ki67, bent 3 %", "cc10-prospc", 0.03, fixed_as="H&E", moving_as="Ki67"),
    StandIn("cd31-prospc as Ki67 / proSPC, bent 2 %", "cd31-prospc", 0.02, fixed_as="Ki67"),
    StandIn("lung as H&E / Ki67, bent 1.5 %", "lung", 0.015, moving_as="Ki67"),
)


def write_stand_ins(root: Path, folder: Path) -> Iterator[tuple[StandIn, Path]]:
    """Each stand-in, and the folder that holds its pair under the same names as `root` does."""
    for seed, stand_in in enumerate(STAND_INS):
        place = folder / f"stand-in-{seed}"
        fixed, moving = PAIRS[stand_in.pair]
        for stem in (fixed, moving):
            (place / stem).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(f"{root / fixed}.csv", f"{place / fixed}.csv")
        if stand_in.fixed_as is None:
            shutil.copyfile(f"{root / fixed}.jpg", f"{place / fixed}.jpg")
        else:
            dyed = _restained(_read(f"{root / fixed}.jpg"), StandIn("", "", moving_as=stand_in.fixed_as), 7000 + seed)
            _write(f"{place / fixed}.jpg", dyed.astype(np.uint8))
        image = _read(f"{root / moving}.jpg")
        changed, points = _degraded(image, read_points(Path(f"{root / moving}.csv")), stand_in, seed)
        _write(f"{place / moving}.jpg", changed)
        with Path(f"{place / moving}.csv").open("w", encoding="utf-8", newline="") as stream:
            table = csv.writer(stream)
            table.writerow(["X", "Y"])
            table.writerows((points - 0.5).round(3).tolist())
        yield stand_in, place


def _read(path: str) -> np.ndarray:
    image = cv2.imread(path)
    assert image is not None
    return image[..., ::-1]


def _write(path: str, rgb: np.ndarray) -> None:
    assert cv2.imwrite(path, rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])


def _degraded(rgb: np.ndarray, points: Points, how: StandIn, seed: int) -> tuple[np.ndarray, Points]:
    height, width = rgb.shape[:2]
    light = _restained(rgb, how, 3000 + seed)
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


def _restained(rgb: np.ndarray, how: StandIn, seed: int) -> np.ndarray:
    inks = _STAINS / np.linalg.norm(_STAINS, axis=1, keepdims=True)
    absorbance = -np.log10((rgb.astype(np.float32) + 1) / 244)
    amounts = absorbance @ np.linalg.inv(inks)
    if how.exchanged:
        amounts = amounts[..., ::-1]
    if how.moving_as is not None:
        nuclei = np.maximum(amounts[..., 0], 0)
        amounts = np.maximum(amounts, 0) @ DYES[how.moving_as]
        if how.moving_as == "Ki67":
            noise = np.random.default_rng(seed).standard_normal(rgb.shape[:2]).astype(np.float32)
            patches = cv2.GaussianBlur(noise, (0, 0), _KI67_PATCH_PX)
            amounts[..., 2] += _KI67_BROWN * nuclei * (patches > patches.std())
    amounts = amounts * np.array(how.strengths, np.float32)
    return np.clip(244 * 10 ** -(amounts @ inks) - 1, 0, 255).astype(np.float32)


def _bend(rng: np.random.Generator, shape: tuple[int, int], fraction: float) -> DisplacementField:
    rows, columns = (side // _STEP + 2 for side in shape)
    noise = [cv2.GaussianBlur(rng.standard_normal((rows, columns)), (0, 0), _BEND_PX / _STEP) for _ in range(2)]
    u = np.stack([n - n.mean() for n in noise], axis=-1)
    u = u * (fraction * np.hypot(*shape) / np.linalg.norm(u, axis=-1).max())
    return DisplacementField((0.0, 0.0), (float(_STEP), float(_STEP)), u.astype(np.float32))
