"""Slides looked at ahead of their turn."""

import os
import threading

import pytest

from tests.fixtures.models import TinyPredictor, block_slide, coloured_is_tissue
from virtual_stain.config import ScoringSettings, TissueSettings
from virtual_stain.scoring import score as score_module
from virtual_stain.scoring.ahead import Ahead
from virtual_stain.scoring.inputs import ScoreInput
from virtual_stain.slides.slide import Slide, SlideRef, open_slide
from virtual_stain.slides.stain_kind import stain_looks
from virtual_stain.workflows.score_many import score_slides
from virtual_stain.workflows.score_slides import ScoreOptions


@pytest.fixture(autouse=True)
def known_tissue(monkeypatch):
    monkeypatch.setattr(score_module, "find_tissue", coloured_is_tissue)


@pytest.fixture
def refs(tmp_path):
    return [SlideRef(block_slide(tmp_path / f"{n}.tiff", [[150, 120, 170], [90, 190, 120]])) for n in "ab"]


def test_hash_and_tissue_are_those_of_the_slide_and_the_next_slide_is_begun(refs):
    with Ahead(refs, TissueSettings(), lambda ref: ref == refs[0]) as ahead:
        first, second = ahead.take(refs[0]), ahead.take(refs[1])
        assert ahead.take(refs[1]) is None  # each once
        assert ahead.take(SlideRef(refs[0].path, name="a copy")) is None
    with open_slide(refs[0]) as slide:
        assert first.content_hash == slide.content_hash()
        assert (first.tissue.mask == score_module.locate_tissue(slide, TissueSettings()).mask).all()
        assert list(first.looks) == stain_looks(slide, first.tissue)
    assert second.tissue is second.looks is None


def test_a_slide_that_was_replaced_after_it_was_hashed_is_hashed_again(refs):
    with Ahead(refs, TissueSettings(), lambda ref: True) as ahead:
        ahead._begun[refs[0]].result()
        before = refs[0].path.stat()
        os.utime(refs[0].path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
        assert ahead.take(refs[0]) is None


def test_what_fails_ahead_is_told_in_the_slides_turn(refs, tmp_path):
    gone = SlideRef(tmp_path / "gone.tiff")
    with Ahead([gone, refs[0]], TissueSettings(), lambda ref: True) as ahead:
        assert ahead.take(gone) is None
        assert ahead.take(refs[0]) is not None


def test_a_run_looks_at_every_slide_once_and_away_from_the_network(refs, tmp_path, monkeypatch):
    seen = []
    real = Slide.content_hash

    def hashed(slide):
        seen.append((slide.path, threading.current_thread().name))
        return real(slide)

    monkeypatch.setattr(Slide, "content_hash", hashed)
    inputs = [ScoreInput(ref, tmp_path / "out") for ref in refs]
    options = ScoreOptions(model="", scoring=ScoringSettings(batch_size=1))
    results = score_slides(inputs, options, predictor=TinyPredictor())
    assert all(r.outcome.ok for r in results)
    assert [path for path, _ in seen] == [ref.path for ref in refs]
    assert all(name.startswith("ahead") for _, name in seen)
