"""The overlap of reading and network: calls at once, in order, and what an interrupted slide keeps."""

import threading
import time

import numpy as np
import pytest

from tests.fixtures.models import TinyPredictor, block_slide, coloured_is_tissue, tiny_card
from virtual_stain.appearance import tile_appearance
from virtual_stain.config import ScoringSettings, TissueSettings
from virtual_stain.errors import ModelError
from virtual_stain.markers import Marker
from virtual_stain.scoring import score as module
from virtual_stain.scoring.answer_log import AnswerLog
from virtual_stain.scoring.in_flight import Batch, InFlight
from virtual_stain.scoring.predictor import Predictor
from virtual_stain.scoring.score import score_slide
from virtual_stain.slides.slide import SlideRef, open_slide
from virtual_stain.tiles import walking_order


class _Slow(TinyPredictor):
    in_flight = 3

    def __init__(self):
        super().__init__()
        self.now, self.most = 0, 0
        self.lock = threading.Lock()

    def predict(self, tiles):
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(0.01)
        with self.lock:
            self.now -= 1
        return super().predict(tiles)


def test_as_many_calls_run_at_once_as_the_model_allows_and_answers_stay_in_order():
    predictor = _Slow()
    taken = []

    def batches():
        for i in range(20):
            taken.append(i)
            yield Batch([i], [np.full((4, 4, 3), i, np.uint8)], {})

    start = time.monotonic()
    with InFlight(lambda tiles: predictor.predict(np.stack(tiles)), predictor) as network:
        seen = []
        for batch in network.answers(batches()):
            assert len(taken) - len(seen) <= 3 + 2  # back-pressure: nobody reads far ahead of the network
            seen.append((batch.indices[0], round(float(batch.answers["ki67"][0]) * 255)))
    assert seen == [(i, i) for i in range(20)]
    assert 1 < predictor.most <= 3
    assert 0.01 < network.busy_s <= time.monotonic() - start, "time that calls share counts once"


def test_an_error_of_the_network_ends_the_run_and_cancels_what_waits():
    class Fails(TinyPredictor):
        cancelled = False

        def cancel(self):
            self.cancelled = True

    predictor = Fails()

    def fail(tiles):
        raise ModelError("gone")

    with pytest.raises(ModelError, match="gone"), InFlight(fail, predictor) as network:
        list(network.answers(iter([Batch([0], [np.zeros((1, 1, 3), np.uint8)], {})] * 3)))
    assert predictor.cancelled


def test_a_mistake_inside_a_models_cancel_was_swallowed():
    class Broken(TinyPredictor):
        def cancel(self):
            self.transport.close()

    with pytest.raises(AttributeError, match="transport"), InFlight(lambda _: {}, Broken()):
        raise ModelError("gone")


def test_a_model_that_says_no_more_than_it_must_has_the_defaults(tmp_path, monkeypatch):
    """Neither `check` nor `cancel` nor `close` nor any number of calls: the base class answers for all of them."""

    class Least(Predictor):
        card, sha256 = tiny_card(), "0" * 64

        def predict(self, tiles):
            return TinyPredictor().predict(tiles)

    monkeypatch.setattr(module, "find_tissue", coloured_is_tissue)
    path = block_slide(tmp_path / "a.tiff", [[150, 120, 170]])
    score = _score(path, Least())
    assert score.engine == {}
    np.testing.assert_array_equal(
        score.markers[Marker.KI67].value, _score(path, TinyPredictor()).markers[Marker.KI67].value
    )
    assert (Least().batch_size, Least().in_flight, Least().compares_engines) == (4, 1, False)
    Least().close()
    with pytest.raises(TypeError, match="predict"):
        Predictor()


def _score(path, predictor, journal=None):
    with open_slide(SlideRef(path)) as slide:
        return score_slide(slide, predictor, ScoringSettings(batch_size=1), TissueSettings(), journal=journal)


def test_an_interrupted_slide_goes_on_where_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "find_tissue", coloured_is_tissue)
    path = block_slide(tmp_path / "a.tiff", [[150, 120, 170], [90, 190, 120]])

    class Dies(TinyPredictor):
        def predict(self, tiles):
            if len(self.batches) == 4:
                raise ModelError("server gone")
            return super().predict(tiles)

    whole = _score(path, TinyPredictor())
    partial = tmp_path / "a.partial.npz"
    with pytest.raises(ModelError, match="gone"):
        _score(path, Dies(), AnswerLog(partial, "key"))
    assert partial.is_file()
    second = TinyPredictor()
    resumed = _score(path, second, AnswerLog(partial, "key"))
    assert len(second.batches) == len(whole.tiles) - 4
    np.testing.assert_array_equal(resumed.markers[Marker.KI67].value, whole.markers[Marker.KI67].value)
    other = TinyPredictor()
    _score(path, other, AnswerLog(partial, "another slide or model"))
    assert len(other.batches) == len(whole.tiles)


def test_a_damaged_answer_log_is_ignored_and_looks_survive(tmp_path):
    path = tmp_path / "log.npz"
    path.write_bytes(b"PK\x03\x04 not a whole archive")
    log = AnswerLog(path, "k")
    answers, looks = log.start(["ki67"], 3)
    assert np.isnan(answers["ki67"]).all()
    assert not looks
    tile = np.random.default_rng(0).integers(50, 200, (64, 64, 3), dtype=np.uint8)
    answers["ki67"][1] = 0.25
    log.add([1], answers, {1: tile_appearance(tile)})
    log.write(answers, {1: tile_appearance(tile)})
    again, looks = AnswerLog(path, "k").start(["ki67"], 3)
    np.testing.assert_array_equal(again["ki67"], answers["ki67"])
    assert looks == {1: tile_appearance(tile)}
    log.remove()
    assert not path.exists()


def test_tiles_are_walked_in_strips_and_each_once(tmp_path):
    class Plan:
        tiles = tuple(type("T", (), {"col": c, "row": r}) for r in range(3) for c in range(20))

    order = walking_order(Plan)
    assert sorted(order) == list(range(60))
    places = [(Plan.tiles[i].col, Plan.tiles[i].row) for i in order]
    assert places[:9] == [(c, 0) for c in range(8)] + [(0, 1)]
    assert places[-1] == (19, 2)
