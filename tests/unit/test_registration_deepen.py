"""Finer than the working images: read from the slides, kept where it pays, and the same section recognised."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.fixtures.registration import ToyPair, ihc_density, noise, stained, toy_tissue, toy_transform, write_image
from virtual_stain.config import RegistrationSettings, TissueSettings
from virtual_stain.geometry import Affine2D, Size
from virtual_stain.registration.register import register_pair
from virtual_stain.registration.result import Registration
from virtual_stain.registration.transform import PairTransform
from virtual_stain.slides.slide import SlideRef, open_slide

SHAPE = (840, 1000)  # twice the toy's size, at 1.6 µm/px
MPP = 1.6


def cells(seed: int) -> np.ndarray:
    """float32[H, W]: dark dots of about 8 µm, none at the same place for another seed."""
    return np.asarray(np.where(noise(seed, SHAPE, 1.7) > 1.1, 1.9, 0.75), np.float32)


def pair(folder: Path, *, same_cells: bool) -> ToyPair:
    toy = toy_transform(50, elastic_px=4.0)
    twice = np.diag([2.0, 2.0, 1.0])
    matrix = twice @ toy.ihc_from_he.matrix @ np.linalg.inv(twice)
    assert toy.displacement is not None
    field = toy.displacement
    bent = type(field)(field.origin_px0, tuple(2 * s for s in field.spacing_px0), 2 * field.values_px0)
    transform = PairTransform(Affine2D("ihc_px0", "he_px0", matrix), bent)
    tissue = cv2.resize(toy_tissue(6), SHAPE[::-1], interpolation=cv2.INTER_CUBIC)
    he = tissue * cells(60)
    ihc = ihc_density(tissue * cells(60 if same_cells else 90), transform, Size(1160, 1140))
    paths = [
        write_image(folder / name, stained(density, ink, seed))
        for name, density, ink, seed in (
            ("he.png", he, (0.45, 0.5, 0.25), 160),
            ("ihc.png", ihc, (0.4, 0.36, 0.2), 170),
        )
    ]
    return ToyPair(paths[0], paths[1], transform, MPP, MPP)


def registered(pair: ToyPair, settings: RegistrationSettings) -> tuple[Registration, np.ndarray]:
    refs = SlideRef(pair.he, (MPP, MPP)), SlideRef(pair.ihc, (MPP, MPP))
    with open_slide(refs[0]) as a, open_slide(refs[1]) as b:
        registration = register_pair(a, b, settings, TissueSettings())
    points = pair.points() * 2
    gaps = registration.transform.to_ihc(points) - pair.transform.to_ihc(points)
    return registration, np.asarray(np.linalg.norm(gaps, axis=1) * MPP)


@pytest.mark.parametrize("same_cells", [True, False])
def test_same_section_is_recognised_and_made_finer(tmp_path: Path, same_cells: bool) -> None:
    toy = pair(tmp_path, same_cells=same_cells)
    settings = RegistrationSettings(work_px=220)
    fine, error = registered(toy, settings)
    assert ("same_cells" in fine.flags) == same_cells
    _, p95 = fine.error_at_um(toy.points() * 2)
    assert np.mean(error < p95) >= 0.9
    assert fine.finest_mpp is not None
    if same_cells:
        coarse, before = registered(toy, RegistrationSettings(work_px=220, detail_windows=0))
        assert "same_cells" not in coarse.flags
        assert fine.finest_mpp == pytest.approx(MPP, rel=0.01)
        assert np.percentile(error, 90) < 0.5 * np.percentile(before, 90)
        assert np.percentile(error, 90) < 1.0
