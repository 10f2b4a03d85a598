"""Membranes of HER2 and PD-L1 phantoms: how the cells of a field are stained, and rings drawn around nuclei."""

from __future__ import annotations

import dataclasses

import numpy as np

from virtual_stain.markers import Compartment, Marker
from virtual_stain.phantom.cells import Nuclei
from virtual_stain.phantom.noise import Image, rng_for
from virtual_stain.phantom.stamp import PlacedNuclei

GAP_UM = 1.0
"""From the edge of the nucleus to the middle of its membrane."""
_HALF_WIDTH_UM = 0.6  # Gaussian sigma of a stained membrane, optics not included
_REACH_UM = GAP_UM + 3 * _HALF_WIDTH_UM
_SOFT_RAD = 0.12  # how fast a membrane ends


def is_membrane(marker: str) -> bool:
    """Whether the marker stains membranes."""
    return Marker(marker).compartment is Compartment.MEMBRANE


def stain_membranes(seed: int, section: str, nuclei: Nuclei, marker: str, *, hard: bool = False) -> Nuclei:
    """The same nuclei without nuclear DAB, tumour cells with membranes as their field says.

    HER2: the class 0–3 is binomial with the field's probability; PD-L1: stained or not, partly or all around, at any
    intensity.
    """
    rng = rng_for(seed, "membranes", section)
    n, tumour = len(nuclei), nuclei.tumour
    if marker == Marker.HER2:
        intensity = rng.binomial(3, np.clip(nuclei.field, 0, 1))
    else:
        intensity = np.where(rng.random(n) < nuclei.field, rng.integers(1, 4, n), 0)
    intensity = np.where(tumour, intensity, 0)
    # the intensities overlap in density and in completeness, as readers' do
    faint, moderate, strong = rng.uniform(0.2, 0.42, n), rng.uniform(0.26, 0.62, n), rng.uniform(0.5, 1.6, n)
    od = np.choose(intensity, [np.zeros(n), faint, moderate, strong])
    part = np.choose(
        intensity, [np.zeros(n), rng.uniform(0.25, 0.75, n), rng.uniform(0.7, 1, n), rng.uniform(0.85, 1, n)]
    )
    if hard:
        od *= rng.uniform(0.8, 1.15, n)
    return dataclasses.replace(
        nuclei,
        positive=intensity > 0,
        dab_od=np.abs(rng.normal(0, 0.01, n)).astype(np.float32),
        mitosis=np.zeros(n, bool),
        membrane_od=od.astype(np.float32),
        membrane_fraction=part.astype(np.float32),
        intensity=intensity.astype(np.uint8),
    )


def draw_membranes(dab: Image, placed: PlacedNuclei, origin_px0: tuple[int, int]) -> None:
    """Draws the rings into float32[h, w] `dab`; where two meet, the darker one counts."""
    n, mpp = placed.nuclei, placed.mpp
    height, width = dab.shape
    centre = placed.px0 - np.asarray(origin_px0, np.float64)
    long_um = n.radius_um * np.sqrt(n.elongation)
    for i in np.flatnonzero(n.membrane_fraction > 0).tolist():
        cx, cy = centre[i]
        reach = int(np.ceil((long_um[i] + _REACH_UM) / mpp)) + 1
        x0, y0 = max(0, int(cx) - reach), max(0, int(cy) - reach)
        x1, y1 = min(width, int(cx) + reach + 1), min(height, int(cy) + reach + 1)
        if x1 <= x0 or y1 <= y0:
            continue
        dx = (np.arange(x0, x1) + 0.5 - cx)[None, :] * mpp
        dy = (np.arange(y0, y1) + 0.5 - cy)[:, None] * mpp
        c, s = np.cos(placed.angle[i]), np.sin(placed.angle[i])
        u, v = dx * c + dy * s, dy * c - dx * s
        a, b = long_um[i] + GAP_UM, n.radius_um[i] / np.sqrt(n.elongation[i]) + GAP_UM
        rho = np.hypot(u / a, v / b)
        beside = (rho - 1) * np.hypot(u, v) / np.maximum(rho, 1e-3)
        ring = np.exp(-0.5 * np.square(beside / _HALF_WIDTH_UM))
        if n.membrane_fraction[i] < 1:
            turn = np.abs((np.arctan2(v, u) - float(n.shape[i]) + np.pi) % (2 * np.pi) - np.pi)
            ring = ring / (1 + np.exp((turn - np.pi * n.membrane_fraction[i]) / _SOFT_RAD))
        window = dab[y0:y1, x0:x1]
        np.maximum(window, (ring * n.membrane_od[i]).astype(np.float32), out=window)
