"""Counting on real IHC: manual masks, two scanners, H&E by mistake. Bounds: what was measured, with a little room."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tools.bench.counting_baselines import fixed_vectors, local_density
from tools.bench.counting_data import Scene, masked_scenes, scanner_scenes
from tools.bench.counting_disturbances import harsh, usual
from tools.bench.counting_scores import score
from virtual_stain.config.counting import CountingSettings
from virtual_stain.counting.cells import Cells
from virtual_stain.counting.count import count_cells
from virtual_stain.counting.stain import BROWN_OUTSIDE, estimate_stain
from virtual_stain.counting.vectors import OTHER_STAIN
from virtual_stain.geometry import Size
from virtual_stain.markers import Marker
from virtual_stain.slides.slide import SlideRef, open_slide

pytestmark = pytest.mark.real

SETTINGS = CountingSettings()


@pytest.fixture(scope="module")
def root() -> Path:
    folder = os.environ.get("VSTAIN_REALDATA")
    if not folder:
        pytest.skip("VSTAIN_REALDATA is unset: no real slides to count on")
    return Path(folder)


_COUNTED: dict[str, Cells] = {}


def plain(scene: Scene) -> Cells:
    """`ours` of an undisturbed scene, once."""
    if scene.name not in _COUNTED:
        _COUNTED[scene.name] = ours(scene)
    return _COUNTED[scene.name]


def ours(scene: Scene) -> Cells:
    stain = estimate_stain([scene.rgb], SETTINGS, scene.mpp)
    return count_cells(scene.rgb, scene.mpp, Marker.KI67, stain, SETTINGS)


def test_detection_on_manual_masks(root: Path) -> None:
    # The masks of 6_2 and 799_2 leave out stromal and out-of-focus nuclei: there precision, not recall, is low.
    breast, others = masked_scenes(root)
    scores = [score(scene, plain(scene)) for scene in breast + others]
    assert np.mean([s.f1 for s in scores[:4]]) > 0.70
    assert np.mean([s.f1 for s in scores[4:]]) > 0.83
    assert np.mean([s.recall for s in scores[:4]]) > 0.85
    # 0.798 measured: since any brown counts, ten plainly brown nuclei of 34_3 are positive that its mask leaves out
    assert np.mean([s.f1_positive for s in scores[:4]]) > 0.80


@pytest.mark.parametrize("baseline", [fixed_vectors, local_density])
def test_better_than_what_anybody_would_write_first(root: Path, baseline: Callable[[Scene], Cells]) -> None:
    breast, others = masked_scenes(root)
    for scenes in (breast, others):
        mine, theirs = ([score(s, counter(s)) for s in scenes] for counter in (plain, baseline))
        assert np.mean([s.f1 for s in mine]) > np.mean([s.f1 for s in theirs])
        assert np.mean([s.f1_positive for s in mine]) > np.mean([s.f1_positive for s in theirs])
    # Of the ratio this holds over all tiles, not on the two co-registered ones, where fixed vectors are nearer
    # (1.0 points against 3.8, docs/counting.md).
    mine, theirs = ([score(s, counter(s)) for s in breast + others] for counter in (plain, baseline))
    assert np.mean([abs(s.ratio_error) for s in mine]) < np.mean([abs(s.ratio_error) for s in theirs])


@pytest.mark.parametrize("name", [name for name, _ in usual()])
def test_defaults_hold_under_disturbances(root: Path, name: str) -> None:
    disturb = dict(usual())[name]
    breast, _ = masked_scenes(root)
    for scene in breast:
        before, disturbed = plain(scene), ours(disturb(scene))
        assert score(disturb(scene), disturbed).f1 == pytest.approx(score(scene, before).f1, abs=0.06)
        ratios = [c.counts(tumour_only=False).ratio or 0 for c in (before, disturbed)]
        # 0.031 measured: under JPEG 70 four weakly brown nuclei of 34_3's 107 cross the cut-off; all else is below 0.03
        assert ratios[0] == pytest.approx(ratios[1], abs=0.03)


@pytest.mark.parametrize("name", [name for name, _ in harsh()])
def test_harsh_disturbances_break_nothing(root: Path, name: str) -> None:
    # where three tenths of the hematoxylin are left F1 loses 0.14; brown tissue hides faint positives
    disturb = dict(harsh())[name]
    breast, _ = masked_scenes(root)
    scenes = [disturb(scene) for scene in breast]
    counted = [ours(scene) for scene in scenes]
    f1 = [
        [score(s, c).f1 for s, c in zip(*pair, strict=True)]
        for pair in ((breast, map(plain, breast)), (scenes, counted))
    ]
    assert np.mean(f1[1]) > np.mean(f1[0]) - 0.16
    ratios = [[c.counts(tumour_only=False).ratio or 0 for c in cells] for cells in (map(plain, breast), counted)]
    assert np.abs(np.subtract(*ratios)).max() < 0.11


def test_two_scanners_read_the_same_tissue_alike(root: Path) -> None:
    cells = [ours(scene) for scene in scanner_scenes(root)]
    for tumour_only in (False, True):
        first, second = (c.counts(tumour_only=tumour_only).ratio or 0 for c in cells)
        assert abs(first - second) <= 0.03


def test_hematoxylin_and_eosin_is_not_counted_in_silence(root: Path) -> None:
    with open_slide(SlideRef(root / "histomicstk_he/Easy1.png", (0.5, 0.5))) as slide:
        image = slide.read_level(0, 0, 0, slide.size)
    assert OTHER_STAIN in estimate_stain([image], SETTINGS, 0.5).flags


@pytest.mark.parametrize(("stain", "flag"), [("32", OTHER_STAIN), ("14", BROWN_OUTSIDE), ("37", BROWN_OUTSIDE)])
def test_sirius_red_and_brown_outside_nuclei_are_told(root: Path, stain: str, flag: str) -> None:
    with open_slide(SlideRef(root / f"kidney_stains/stain_{stain}.png", (0.5, 0.5))) as slide:
        image = slide.read_level(0, 0, 0, Size(600, 600))
    assert flag in estimate_stain([image], SETTINGS, 0.5).flags
