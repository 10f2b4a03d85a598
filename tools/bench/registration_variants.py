"""Five real pairs of serial sections with people's landmarks, each in twelve variants that must not change the answer.

The variants are made of the IHC image: turned, mirrored, rescaled, padded, cropped. So the map from the H&E to the IHC
of a variant, composed back, is comparable with that of the pair as it is.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from virtual_stain.geometry import Points
from virtual_stain.slides.slide import SlideRef, open_slide

MPP = 3.5  # by assumption: the images are 5 % of full scale
_LESION, _KIDNEY, _SERIAL = "birl_pairs/lesions_/scale-5pc", "birl_pairs/rat-kidney_/scale-5pc", "lung_serial"
PAIRS = {
    "lung": (f"{_LESION}/Izd2-29-041-w35_HE", f"{_LESION}/Izd2-29-041-w35_proSPC"),
    "kidney": (f"{_KIDNEY}/Rat-Kidney_HE", f"{_KIDNEY}/Rat-Kidney_PanCytokeratin"),
    "cd31-cc10": (f"{_SERIAL}/CD31", f"{_SERIAL}/Cc10"),
    "cd31-prospc": (f"{_SERIAL}/CD31", f"{_SERIAL}/proSPC"),
    "cc10-prospc": (f"{_SERIAL}/Cc10", f"{_SERIAL}/proSPC"),
}
"""Name → fixed and moving image, without ending."""


@dataclass(frozen=True)
class Variant:
    """What is done to the IHC image."""

    name: str
    degrees: float = 0.0
    mirrored: bool = False
    scale: float = 1.0
    margin_fraction: float = 0.0
    """Of the longer side, added on every side; negative: cut off."""
    mpp_factor: float | None = 1.0
    """On the stated pixel size; None: no pixel size is stated on either side."""


UPRIGHT = Variant("upright")
VARIANTS = (
    UPRIGHT,
    *(Variant(f"{a}°", a) for a in (90, 180, 270, 37, 140)),
    Variant("mirrored", mirrored=True),
    Variant("mirrored 37°", 37, mirrored=True),
    Variant("× 0.5", scale=0.5),
    Variant("× 2", scale=2.0),
    Variant("padded 30 %", margin_fraction=0.3),
    Variant("cropped 10 %", margin_fraction=-0.05),
)
"""The same answer is expected of all."""
UNTOLD = (
    *(Variant(f"× {s}, no mpp", 20, scale=s, mpp_factor=None) for s in (0.5, 1.0, 2.0)),
    Variant("mpp 3 % wrong", 140, mirrored=True, mpp_factor=1.03),
)
"""Pixel sizes that are missing or wrong: told from the others, since the answer may differ."""


@dataclass(frozen=True)
class Landmarked:
    """A pair in one variant, and how its IHC px lie in the IHC image as it is."""

    name: str
    variant: Variant
    he: SlideRef
    ihc: SlideRef
    he_points: Points
    ihc_points: Points
    upright_from_variant: np.ndarray
    """float64[3, 3]."""
    diagonal: float
    """Of the IHC image as it is, px."""

    def upright(self, ihc_points: Points) -> Points:
        """float64[N, 2] IHC px of this variant → px of the IHC image as it is."""
        m = self.upright_from_variant
        placed: Points = ihc_points @ m[:2, :2].T + m[:2, 2]
        return placed


def variants_of(
    name: str, root: Path, folder: Path, variants: tuple[Variant, ...] = VARIANTS, *, exchanged: bool = False
) -> Iterator[Landmarked]:
    """`name`: one of PAIRS; images are written into `folder`. `exchanged`: the IHC is registered to, the H&E turned."""
    fixed, moving = (root / stem for stem in (PAIRS[name][::-1] if exchanged else PAIRS[name]))
    points = [read_points(p.with_name(p.name + ".csv")) for p in (fixed, moving)]
    n = min(len(p) for p in points)
    fixed, moving = (p.with_name(p.name + ".jpg") for p in (fixed, moving))
    with open_slide(SlideRef(moving)) as slide:
        diagonal = slide.size.diagonal
    for variant in variants:
        path = moving
        into = np.eye(3)
        if variant not in (UPRIGHT,):
            place = folder / f"{name} {variant.name}{' exchanged' if exchanged else ''}".replace("×", "x")
            path, into = _written(moving, place, variant)
        here = points[1][:n] @ into[:2, :2].T + into[:2, 2]
        with open_slide(SlideRef(path)) as slide:
            size = np.array([slide.size.width, slide.size.height])
        seen = ((here >= 0) & (here <= size)).all(axis=1)
        told = variant.mpp_factor
        he_mpp, ihc_mpp = (None, None) if told is None else ((MPP,) * 2, (MPP / variant.scale * told,) * 2)
        yield Landmarked(
            name, variant, SlideRef(fixed, he_mpp), SlideRef(path, ihc_mpp), points[0][:n][seen], here[seen],
            np.linalg.inv(into), diagonal,
        )  # fmt: skip


def read_points(path: Path) -> Points:
    """float64[N, 2] of a table with the columns X and Y."""
    with path.open(encoding="utf-8") as stream:
        # set on pixels: their centres lie at + 0.5
        return np.array([[float(r["X"]), float(r["Y"])] for r in csv.DictReader(stream)]) + 0.5


def _written(source: Path, place: Path, variant: Variant) -> tuple[Path, np.ndarray]:
    """The image of a variant, and float64[3, 3] its px from those of the source."""
    image = cv2.imread(str(source))
    assert image is not None
    height, width = image.shape[:2]
    a = np.deg2rad(variant.degrees)
    linear = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
    linear = variant.scale * linear @ np.diag([-1.0 if variant.mirrored else 1.0, 1.0])
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64) @ linear.T
    margin = variant.margin_fraction * (np.ptp(corners, axis=0) if variant.margin_fraction < 0 else max(width, height))
    low = np.floor(corners.min(axis=0) - margin + 1e-6)
    size = np.ceil(corners.max(axis=0) + margin - low - 1e-6).astype(int)
    into = np.eye(3)
    into[:2, :2], into[:2, 2] = linear, -low
    index = np.c_[linear, linear @ [0.5, 0.5] - low - 0.5]
    if variant.scale < 1:
        image = cv2.GaussianBlur(image, (0, 0), 0.5 / variant.scale)
    moved = cv2.warpAffine(image, index, (int(size[0]), int(size[1])), flags=cv2.INTER_CUBIC, borderValue=(255,) * 3)
    place.mkdir(parents=True, exist_ok=True)
    path = place / "ihc.png"
    assert cv2.imwrite(str(path), moved)
    return path, into
