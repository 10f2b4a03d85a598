"""The places that the page of a pair shows."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from tests.fixtures.registration import plain_registration, toy_pair, toy_transform
from virtual_stain.registration.closeups import worst_windows
from virtual_stain.slides.slide import SlideRef, open_slide


def test_a_lost_fragment_took_the_figures_from_all_places(tmp_path: Path) -> None:
    """Where one window was lost, all three places once had an unknown error and came in no order."""
    pair = toy_pair(tmp_path, toy_transform(0))
    registration = plain_registration(pair.transform)
    x, y = np.meshgrid(np.arange(10) * 40.0 + 60, np.arange(8) * 40.0 + 60)
    centres = np.stack([x.ravel(), y.ravel()], axis=1)
    count = len(centres)
    distances = np.where(centres[:, 0] < 100, 24.0, 6.0)  # the left edge is worse than the rest
    evidence = dataclasses.replace(
        registration.evidence,
        centres_px0=centres,
        distances=distances,
        usual=np.full(count, 6.0),
        height=np.full(count, 0.6),
        apart=np.zeros(count),
        trust=np.where((centres[:, 0] > 330) & (centres[:, 1] > 230), 0.01, 0.95),  # a corner lies elsewhere
        spacing=160.0,
    )
    registration = dataclasses.replace(registration, evidence=evidence)
    mpp = (pair.he_mpp, pair.he_mpp)
    with open_slide(SlideRef(pair.he, mpp)) as he, open_slide(SlideRef(pair.ihc, mpp)) as ihc:
        shown = worst_windows(he, ihc, registration)
    assert len(shown) == 3
    assert np.isinf(shown[0].p95)
    assert shown[0].centre_px0[0] > 300
    finite = [c.p95 for c in shown if np.isfinite(c.p95)]
    assert finite
    assert finite == sorted(finite, reverse=True)
