"""Kinds of tissue that masks lose: frozen sections and fatty breast, drawn with a known outline."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from virtual_stain.config import TissueSettings
from virtual_stain.slides.tissue_mask import tissue_mask

DRAWN_UM, MPP_UM = 4.0, 8.0
HEIGHT, WIDTH = 800, 1000  # 3.2 × 4 mm
GLASS = (242.0, 241.0, 243.0)
HE_OD, PALE_OD = (0.10, 0.30, 0.18), (0.04, 0.09, 0.06)


def outline(rng):
    """bool[H, W]: a ragged piece of 2.4 mm."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    dy, dx = (y - HEIGHT / 2) * 1.15, x - WIDTH / 2
    angle = np.arctan2(dy, dx)
    waves = sum(rng.normal(0, 0.05) * np.cos(k * angle + rng.uniform(0, 6)) for k in range(2, 9))
    return np.hypot(dx, dy) < 300 * (1 + waves)


def scanned(density, where, od, rng):
    """The picture at 8 µm/px, uint8[H, W, 3], and the outline there."""
    glass = np.array(GLASS) + rng.normal(0, 1, (HEIGHT, WIDTH, 1))
    image = glass * 10 ** -((density * where)[..., None] * np.array(od))
    size = round(WIDTH * DRAWN_UM / MPP_UM), round(HEIGHT * DRAWN_UM / MPP_UM)
    small = cv2.resize(image.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    return np.clip(np.rint(small), 0, 255).astype(np.uint8), cv2.resize(where.astype(np.uint8), size) > 0


def frozen_section(seed, od):
    """Full of holes that ice has left, with folds."""
    rng = np.random.default_rng(seed)
    grain, ice = (cv2.GaussianBlur(rng.normal(0, 1, (HEIGHT, WIDTH)), (0, 0), s) for s in (1.2, 5))
    folds = np.zeros((HEIGHT, WIDTH), np.float32)
    for _ in range(5):
        ends = rng.integers((250, 200), (750, 600), (2, 2))
        cv2.line(folds, ends[0].tolist(), ends[1].tolist(), 1, 6)
    density = np.clip(1 + 0.35 * grain / grain.std() + 1.2 * folds, 0, 4)
    return scanned(density * (ice < ice.std()), outline(rng), od, rng)


def fatty_breast(seed, od, cell_um):
    """Fat cells, whose walls alone are stained, and some ducts."""
    rng = np.random.default_rng(seed)
    walls = np.zeros((HEIGHT, WIDTH), np.float32)
    step = cell_um / DRAWN_UM
    for row, y in enumerate(np.arange(0, HEIGHT, step * 0.87)):
        for x in np.arange(0, WIDTH, step) + row % 2 * step / 2:
            centre = round(x + rng.normal(0, 1)), round(y + rng.normal(0, 1))
            cv2.circle(walls, centre, int(step / 2), 0.55, 1, cv2.LINE_AA)
    ducts = np.zeros((HEIGHT, WIDTH), np.uint8)
    for _ in range(6):
        cv2.circle(ducts, rng.integers((300, 250), (700, 550)).tolist(), int(rng.integers(15, 45)), 1, -1)
    grain = np.clip(rng.normal(1, 0.3, (HEIGHT, WIDTH)), 0, 3)
    picture, where = scanned(np.where(ducts > 0, grain, walls), outline(rng), od, rng)
    return picture, where, cv2.resize(ducts, where.shape[::-1]) > 0


@pytest.mark.parametrize("od", [HE_OD, PALE_OD], ids=["stained", "pale"])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_frozen_section_is_tissue_with_its_holes(seed, od):
    picture, where = frozen_section(seed, od)
    mask = tissue_mask(picture, MPP_UM, TissueSettings())
    assert mask.sum() / where.sum() == pytest.approx(1, abs=0.03)
    assert (mask & where).sum() / (mask | where).sum() > 0.97


@pytest.mark.parametrize("cell_um", [60, 80, 120])
def test_fatty_breast_is_tissue_to_its_outline(cell_um):
    picture, where, _ = fatty_breast(1, HE_OD, cell_um)
    mask = tissue_mask(picture, MPP_UM, TissueSettings())
    assert mask.sum() / where.sum() == pytest.approx(1, abs=0.06)


@pytest.mark.parametrize("seed", [1, 2])
def test_stained_ducts_in_pale_fat_were_dropped_with_the_fat(seed):
    """A tenth of a piece had to be stained, or all of it was no tissue: "no tissue was found"."""
    picture, where, ducts = fatty_breast(seed, (0.05, 0.15, 0.09), 80)
    inside = cv2.erode((ducts & where).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    assert inside.sum() > 300
    assert tissue_mask(picture, MPP_UM, TissueSettings())[inside].mean() > 0.9
