"""Stain normalisation of the benchmark: a lab's slide comes near the usual one, and glass stays glass."""

from __future__ import annotations

import numpy as np
import pytest

from tools.bench.normalised_records import macenko, macenko_look, reinhard, reinhard_look
from virtual_stain.config.phantom import PhantomSettings
from virtual_stain.phantom.pair import make_pair


@pytest.fixture(scope="module")
def blocks():
    """uint8[400, 400, 3] of the same tissue as the usual lab and as another one show it."""
    settings = {"size_mm": 0.4, "he_mpp": 0.5, "ihc_mpp": 0.5, "seed": 3}
    return [
        make_pair("p001", 0, PhantomSettings(lab=lab, **settings)).he.block(540, 500, 400, 400) for lab in ("", "broad")
    ]


@pytest.mark.parametrize(("look", "change"), [(macenko_look, macenko), (reinhard_look, reinhard)])
def test_the_same_tissue_of_two_labs_looks_more_alike(blocks, look, change) -> None:
    usual, other = blocks
    changed = change(other, look([other]), look([usual]))

    def apart(picture):
        return np.abs(picture.astype(float) - usual).mean()

    assert apart(changed) < 0.4 * apart(other)


@pytest.mark.parametrize(("look", "change"), [(macenko_look, macenko), (reinhard_look, reinhard)])
def test_glass_stays_bright(blocks, look, change) -> None:
    usual, other = blocks
    glass = np.full((20, 20, 3), 250, np.uint8)
    assert change(glass, look([other]), look([usual])).min() > 235
