"""How a slide looks, in six numbers, and whether a model has ever seen a slide that looks so.

Training measures its tiles and stores the range over its slides in `bundle.json`; scoring measures its own tiles with
the same function. A slide outside the range is another scanner, stain or focus than the network has learned from: its
reading is not evidence, however certain the network is.

Stain vectors: Ruifrok and Johnston, Anal. Quant. Cytol. Histol. 2001; 23: 291–299. Focus: variance of the Laplacian
(Pech-Pacheco et al., ICPR 2000) over the grey variance, so that a pale slide does not pass for a blurred one.
Sharpness compares the Laplacian's variance at full and at quarter resolution: the stain cancels, and a scanner that
sharpens its pictures is seen, which the focus alone hides among the differences of the stain.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

_STAINS = np.array([[0.650, 0.704, 0.286], [0.072, 0.990, 0.105]])  # haematoxylin, eosin; OD of red, green, blue
_UNMIX = np.linalg.pinv(_STAINS)
_NEITHER = np.cross(*_STAINS) / np.linalg.norm(np.cross(*_STAINS))
_OD = -np.log10((np.arange(256) + 1) / 256)  # optical density of a grey level
_TISSUE_OD = 0.08
_STRIDE_PX = 4
_MIN_TISSUE_PX = 64
_WIDENED_BY = {
    "hematoxylin_od": 0.5, "eosin_od": 0.5, "other_od": 0.5, "focus": 0.5, "density": 0.5, "sharpness": 0.25,
}  # fmt: skip
"""The range of the training slides is widened by this share of itself on both sides …"""
_AT_LEAST = {
    "hematoxylin_od": 0.05, "eosin_od": 0.05, "other_od": 0.03, "focus": 0.2, "density": 0.15, "sharpness": 0.08,
}  # fmt: skip
"""… and by at least this: few slides, or slides of one batch, say little about the spread of a lab."""
CODES = {
    "hematoxylin_od": "stain_outside_training",
    "eosin_od": "stain_outside_training",
    "other_od": "stain_outside_training",
    "focus": "focus_outside_training",
    "sharpness": "focus_outside_training",
    "density": "tissue_outside_training",
    "n_tiles": "tissue_outside_training",
}
_WORDS = {
    "hematoxylin_od": "optical density of haematoxylin",
    "eosin_od": "optical density of eosin",
    "other_od": "optical density of other colours",
    "focus": "sharpness (log10)",
    "sharpness": "sharpness against a quarter of the resolution (log10)",
    "density": "share of tissue in a tile",
    "n_tiles": "number of usable tiles",
}


@dataclass(frozen=True, slots=True)
class Appearance:
    """Of a tile, or the medians over the tiles of a slide."""

    hematoxylin_od: float
    """Mean optical density of haematoxylin over the tissue's pixels."""
    eosin_od: float
    other_od: float
    """Mean absolute optical density that neither stain explains: brown, ink, pigment."""
    focus: float
    """log10 of the Laplacian's variance over the grey variance; lower is more blurred."""
    density: float
    """Share of the pixels that are tissue, 0…1."""
    n_tiles: int = 1
    sharpness: float = float("nan")
    """log10 of the Laplacian's variance over that at a quarter of the resolution; higher is sharper. NaN: not known."""


@dataclass(frozen=True, slots=True)
class Deviation:
    """A quantity of a slide outside the training range."""

    quantity: str
    value: float
    low: float
    high: float | None
    """None: no upper bound."""

    @property
    def code(self) -> str:
        """stain_outside_training, focus_outside_training or tissue_outside_training."""
        return CODES[self.quantity]

    def __str__(self) -> str:
        upper = " or more" if self.high is None else f" to {self.high:.3g}"
        return f"{_WORDS[self.quantity]} {self.value:.3g} (training slides: {self.low:.3g}{upper})"


def tile_appearance(tile: npt.NDArray[np.uint8]) -> Appearance | None:
    """uint8[T, T, 3] RGB → its appearance; None where it holds next to no tissue."""
    red, green, blue = (_OD[tile[::_STRIDE_PX, ::_STRIDE_PX, channel]] for channel in range(3))
    tissue = (red + green + blue) / 3 > _TISSUE_OD
    if int(tissue.sum()) < _MIN_TISSUE_PX:
        return None
    od = np.stack([red[tissue], green[tissue], blue[tissue]])
    hematoxylin, eosin = od.mean(axis=1) @ _UNMIX
    grey = cv2.cvtColor(tile, cv2.COLOR_RGB2GRAY)
    edges = _variance(cv2.Laplacian(grey, cv2.CV_16S))
    quarter = cv2.resize(grey, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
    return Appearance(
        hematoxylin_od=float(hematoxylin),
        eosin_od=float(eosin),
        # what two vectors of three numbers leave unexplained lies along the one direction square to both
        other_od=float(np.abs(_NEITHER @ od).mean() * np.abs(_NEITHER).mean()),
        focus=_log_ratio(edges, _variance(grey)),
        density=float(tissue.mean()),
        sharpness=_log_ratio(edges, _variance(cv2.Laplacian(quarter, cv2.CV_16S))),
    )


def _log_ratio(a: float, b: float) -> float:
    return float(np.log10((a + 1e-3) / (b + 1e-3)))


def _variance(image: npt.NDArray[Any]) -> float:
    return float(cv2.meanStdDev(image)[1][0, 0] ** 2)


def slide_appearance(tiles: Iterable[Appearance | None]) -> Appearance | None:
    """Medians over the tiles that carry a reading; None where none has tissue. The order does not matter."""
    known = [t for t in tiles if t is not None]
    if not known:
        return None
    medians = {name: float(np.median([getattr(t, name) for t in known])) for name in _AT_LEAST}
    return Appearance(**medians, n_tiles=len(known))


def training_range(slides: Sequence[Appearance]) -> dict[str, Any] | None:
    """The payload for `bundle.json` from the training slides; None without any.

    {"n_slides": …, "<quantity>": [low, high], "n_tiles": [low, None]}.
    """
    if not slides:
        return None
    result: dict[str, Any] = {"n_slides": len(slides)}
    for name, least in _AT_LEAST.items():
        values = [float(getattr(s, name)) for s in slides]
        if not np.isfinite(values).all():
            continue
        margin = max(least, _WIDENED_BY[name] * (max(values) - min(values)))
        result[name] = [round(min(values) - margin, 6), round(max(values) + margin, 6)]
    result["n_tiles"] = [max(1, min(s.n_tiles for s in slides) // 2), None]
    return result


def outside_training(payload: Mapping[str, Any] | None, slide: Appearance | None) -> tuple[Deviation, ...]:
    """What of a slide lies outside the range; empty when nothing does, or when the bundle has no range.

    `slide`: None = no tile with tissue; then there is nothing to compare.
    """
    if not payload or slide is None:
        return ()
    found = []
    for name in (*_AT_LEAST, "n_tiles"):
        if name not in payload:
            continue  # a bundle older than the quantity
        low, high = payload[name]
        value = float(getattr(slide, name))
        if value < low or (high is not None and value > high):
            found.append(Deviation(name, value, float(low), None if high is None else float(high)))
    return tuple(found)
