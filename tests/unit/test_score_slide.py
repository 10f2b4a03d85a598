"""One slide through a model whose answers are known by hand; no TensorFlow."""

import dataclasses
import json

import numpy as np
import pytest

from tests.fixtures.models import (
    TinyPredictor,
    block_image,
    block_slide,
    coloured_is_tissue,
    expected_reading,
    purple,
    tiny_card,
)
from tests.fixtures.slides import write_tiled_tiff
from virtual_stain.config import ScoringSettings, TissueSettings
from virtual_stain.errors import ModelError, NoTissueError, ResolutionError, SlideError
from virtual_stain.geometry import Box, Size
from virtual_stain.markers import Marker
from virtual_stain.report.geojson import tiles_geojson
from virtual_stain.report.report import SlideFacts, make_report
from virtual_stain.scoring import score as module
from virtual_stain.scoring.score import score_slide
from virtual_stain.slides.slide import SlideRef, open_slide
from virtual_stain.slides.window import read_window

REDS = [[150, None, 170], [None, 190, 120], [130, None, None]]


@pytest.fixture(autouse=True)
def _known_mask(monkeypatch):
    monkeypatch.setattr(module, "find_tissue", coloured_is_tissue)


def run(path, predictor=None, *, mpp=None, jobs=1, **scoring):
    predictor = predictor or TinyPredictor()
    with open_slide(SlideRef(path, mpp)) as slide:
        return score_slide(slide, predictor, ScoringSettings(**scoring), TissueSettings(), jobs=jobs)


def inner(score):
    """(col, row) → index of the tiles that are wholly tissue."""
    return {(t.col, t.row): i for i, t in enumerate(score.tiles) if t.tissue_fraction > 0.9}


def test_every_tile_reads_what_its_pixels_say_and_glass_is_never_read(tmp_path):
    score = run(block_slide(tmp_path / "ä slide.tiff", REDS))
    scores, tiles = score.markers[Marker.KI67], inner(score)
    expected = {(c, r): red for r, row in enumerate(REDS) for c, red in enumerate(row) if red is not None}
    assert set(tiles) == set(expected)
    for place, red in expected.items():
        index = tiles[place]
        assert scores.value[index] == pytest.approx(red / 255, abs=0.01)
        assert scores.tumour_cells[index] == pytest.approx(
            expected_reading(block_image([[purple(red)]]))["ki67_tumour_cells"], abs=5
        )
        assert scores.used[index]
    assert score.plan.n_glass == 9 - len(score.tiles)
    assert not score.failed


def test_the_network_sees_exactly_the_windows_of_read_window(tmp_path):
    rng = np.random.default_rng(3)
    noise = np.clip(block_image([[purple(150)] * 3] * 2) + rng.integers(-40, 40, (256, 384, 3)), 0, 255)
    path = write_tiled_tiff(tmp_path / "a.tiff", noise.astype(np.uint8), (0.27, 0.33))
    score = run(path)
    with open_slide(SlideRef(path)) as slide:
        for i, tile in enumerate(score.tiles):
            answer = expected_reading(read_window(slide, tile.box, Size(128, 128)))
            assert score.markers[Marker.KI67].value[i] == pytest.approx(answer["ki67"], abs=1e-6)
            assert score.markers[Marker.KI67].tumour_cells[i] == pytest.approx(answer["ki67_tumour_cells"], abs=1e-3)


def test_a_black_frame_is_white_to_the_network_and_its_tiles_are_border_tiles(tmp_path, monkeypatch):
    """Black beside the scan entered the network as if it were tissue: values of such tiles meant nothing."""
    tissue = np.clip(
        block_image([[purple(150)] * 3] * 2) + np.random.default_rng(3).integers(-9, 9, (256, 384, 3)), 0, 255
    )
    framed = np.zeros((320, 512, 3), np.uint8)
    framed[:256, :384] = tissue
    beside = np.full_like(framed, 255)
    beside[:256, :384] = tissue

    def with_unknown(slide, settings):
        found = coloured_is_tissue(slide, settings)
        overview = slide.overview(mpp=1.2)
        return dataclasses.replace(found, mask=found.mask & ~overview.unknown, unknown=overview.unknown)

    black, white = (write_tiled_tiff(tmp_path / f"{n}.tiff", i, 0.3) for n, i in (("black", framed), ("white", beside)))
    plain = run(white)
    monkeypatch.setattr(module, "find_tissue", with_unknown)
    seen = []

    class Looks(TinyPredictor):
        def predict(self, tiles):
            seen.append(tiles.copy())
            return super().predict(tiles)

    score = run(black, Looks())
    assert min(int(tiles.max(axis=-1).min()) for tiles in seen) > 40
    at_edge = [i for i, t in enumerate(score.tiles) if (t.col, t.row) == (2, 0)]
    assert "border" in score.flags[at_edge[0]]
    values = {(t.col, t.row): v for t, v in zip(score.tiles, score.markers[Marker.KI67].value, strict=True)}
    wanted = {(t.col, t.row): v for t, v in zip(plain.tiles, plain.markers[Marker.KI67].value, strict=True)}
    assert values[0, 0] == pytest.approx(wanted[0, 0], abs=1e-6)
    assert values[2, 0] == pytest.approx(wanted[2, 0], abs=0.02)  # the rim of one overview pixel is white, too


@pytest.mark.parametrize(("batch_size", "jobs"), [(1, 1), (2, 3), (3, 2), (64, 4)])
def test_the_result_does_not_depend_on_batch_size_or_jobs(tmp_path, batch_size, jobs):
    path = block_slide(tmp_path / "a.tiff", REDS)
    one, other = run(path, batch_size=4), run(path, batch_size=batch_size, jobs=jobs)
    a, b = one.markers[Marker.KI67], other.markers[Marker.KI67]
    np.testing.assert_allclose(a.value, b.value, atol=1e-6)
    np.testing.assert_allclose(a.tumour_cells, b.tumour_cells, atol=1e-6 * 400)
    np.testing.assert_array_equal(a.used, b.used)
    assert one.tiles == other.tiles


def test_thresholds_come_from_the_card_and_unused_tiles_are_listed_with_a_flag(tmp_path):
    path = block_slide(tmp_path / "a.tiff", [[150, 150, None]])
    strict = TinyPredictor(tiny_card(min_tumour_cells=390))
    score = run(path, strict)
    assert not score.markers[Marker.KI67].used.any()
    assert all("few_cells" in flags for flags in score.flags)
    half = TinyPredictor(tiny_card(min_tissue_fraction=1.0))
    partial = run(block_slide(tmp_path / "b.tiff", [[150, 150]], mpp=0.33), half)
    low = [f for f, t in zip(partial.flags, partial.tiles, strict=True) if t.tissue_fraction < 1.0]
    assert low
    assert all("low_tissue" in f for f in low)
    assert any(t.border and "border" in f for f, t in zip(partial.flags, partial.tiles, strict=True))


def test_several_markers_are_flagged_and_used_each_for_itself(tmp_path):
    class Two(TinyPredictor):
        def predict(self, tiles):
            answers = super().predict(tiles)
            answers["er_tumour_cells"][:] = 3
            return answers

    predictor = Two(tiny_card(markers=(Marker.KI67, Marker.ER)))
    score = run(block_slide(tmp_path / "a.tiff", [[150, 150]]), predictor)
    assert score.markers[Marker.KI67].used.all()
    assert not score.markers[Marker.ER].used.any()
    assert all(f == ("few_cells:er",) for f in score.flags)


def test_a_tile_that_cannot_be_read_is_counted_and_the_others_are_scored(tmp_path, monkeypatch):
    def broken(slide, box, out):
        if (round(box.x), round(box.y)) == (128, 128):
            raise SlideError(f"{slide.path}: region damaged")
        return read_window(slide, box, out)

    monkeypatch.setattr(module, "read_window", broken)
    score = run(block_slide(tmp_path / "a.tiff", REDS), jobs=2, batch_size=2)
    index = inner(score)[1, 1]
    assert list(score.failed) == [index]
    assert "read_failed" in score.flags[index]
    assert not score.markers[Marker.KI67].used[index]
    assert np.isnan(score.markers[Marker.KI67].value[index])
    assert score.markers[Marker.KI67].used.sum() == 4


def test_a_slide_of_which_nothing_can_be_read_is_an_error(tmp_path, monkeypatch):
    def broken(slide, box, out):
        raise SlideError("region damaged")

    monkeypatch.setattr(module, "read_window", broken)
    with pytest.raises(SlideError, match="none of its"):
        run(block_slide(tmp_path / "a.tiff", REDS))


def test_a_tile_without_reading_is_nan_and_never_used(tmp_path):
    class Padding(TinyPredictor):
        def predict(self, tiles):
            answers = super().predict(tiles)
            answers["ki67"][0] = np.nan
            return answers

    score = run(block_slide(tmp_path / "a.tiff", [[150, 160]]), Padding(), batch_size=8)
    assert score.markers[Marker.KI67].used.tolist() == [False, True]
    assert score.flags[0] == ("no_reading",)


@pytest.mark.parametrize("value", [1.5, -0.2, np.inf])
def test_a_model_that_answers_nonsense_is_refused(tmp_path, value):
    class Nonsense(TinyPredictor):
        def predict(self, tiles):
            return super().predict(tiles) | {"ki67": np.full(len(tiles), value, np.float32)}

    with pytest.raises(ModelError, match="ki67 from 0 to 1"):
        run(block_slide(tmp_path / "a.tiff", REDS), Nonsense())


def test_a_model_that_answers_another_number_of_values_is_refused(tmp_path):
    class Short(TinyPredictor):
        def predict(self, tiles):
            return {k: v[:1] for k, v in super().predict(tiles).items()}

    with pytest.raises(ModelError, match="expected 3 values of ki67"):
        run(block_slide(tmp_path / "a.tiff", [[150, 160, 170]]), Short(), batch_size=8)


def test_overlapping_windows_are_scored_on_the_bundles_stride(tmp_path):
    path = block_slide(tmp_path / "a.tiff", [[150, 200]])
    score = run(path, TinyPredictor(tiny_card(stride_um=19.2)))
    assert [(t.col, t.row) for t in score.tiles] == [(0, 0), (1, 0), (2, 0)]
    assert score.markers[Marker.KI67].value[1] == pytest.approx(175 / 255, abs=0.01)


def test_a_slide_with_bounds_is_scored_from_their_corner_in_uncropped_coordinates(tmp_path, monkeypatch):
    """A scan that begins at (128, 256) of level 0, as MRXS slides do: tiles are px0, GeoJSON is QuPath's frame."""
    monkeypatch.setattr("virtual_stain.slides.openslide_source._bounds", lambda _: Box(128.0, 256.0, 300.0, 128.0))
    path = block_slide(tmp_path / "a.tiff", [[None] * 4, [None] * 4, [100, 150, 200, 120]], noise=4)
    score = run(path)
    places = [(t.col, round(t.box.x, 3), round(t.box.y, 3)) for t in score.tiles]
    assert places == [(0, 128.0, 256.0), (1, 256.0, 256.0), (2, 384.0, 256.0)]
    fraction = score.markers[Marker.KI67].value
    assert fraction[:2] == pytest.approx([150 / 255, 200 / 255], abs=0.01)
    assert score.tiles[2].border
    with open_slide(SlideRef(path)) as slide:
        report = make_report(SlideFacts.of(slide, "0" * 64), score, "1" * 64, ScoringSettings(), seen=None)
    features = json.loads(tiles_geojson(report))["features"]
    corners = [f["geometry"]["coordinates"][0][0] for f in features]
    assert corners == [[0.0, 0.0], [128.0, 0.0], [256.0, 0.0]]
    assert features[2]["geometry"]["coordinates"][0][2] == [300.0, 128.0], "cut to the scan"


def test_the_pixel_size_decides_the_window_whatever_the_scanner(tmp_path):
    """The same tissue at another pixel size: the same tiles and readings, to the resampling."""
    colours = [[purple(150), purple(200)], [purple(120), purple(180)]]
    fine = write_tiled_tiff(tmp_path / "fine.tiff", block_image(colours, 160), 0.24)
    coarse = write_tiled_tiff(tmp_path / "coarse.tiff", block_image(colours, 128), 0.3)
    a, b = (run(p).markers[Marker.KI67] for p in (fine, coarse))
    np.testing.assert_allclose(a.value, b.value, atol=0.01)


def test_refusals(tmp_path):
    path = write_tiled_tiff(tmp_path / "no-mpp.tiff", block_image([[purple(150)]]), None)
    with pytest.raises(ResolutionError, match="--mpp"):
        run(path)
    with pytest.raises(ResolutionError, match=r"0\.05 to 2\.0"):
        run(path, mpp=(4.0, 4.0))
    empty = block_slide(tmp_path / "empty.tiff", [[None, None]])
    with pytest.raises(NoTissueError, match="no tissue"):
        run(empty)


def test_settings_change_speed_not_results():
    """Batch size and look-ahead may not be part of what a report depends on."""
    from virtual_stain.workflows.score_slides import ScoreOptions, score_settings

    slow = ScoreOptions(model="m", scoring=ScoringSettings(batch_size=1, read_ahead_batches=1))
    assert score_settings(slow) == score_settings(ScoreOptions(model="m"))
    assert score_settings(dataclasses.replace(slow, scoring=ScoringSettings(top_n=5))) != score_settings(slow)
