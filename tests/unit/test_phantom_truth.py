"""The truth of a phantom is true: it agrees with the pixels, with itself, and with what is read back."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from tests.fixtures.phantoms import tiny_pair
from virtual_stain.config.phantom import PhantomSettings
from virtual_stain.errors import InputError
from virtual_stain.geometry import Box
from virtual_stain.phantom.cells import Kind
from virtual_stain.phantom.pair import make_pair
from virtual_stain.phantom.tile_table import WINDOW_UM
from virtual_stain.phantom.truth import read_truth

SETTINGS = PhantomSettings(size_mm=0.8, margin_mm=0.06, seed=5)


@pytest.fixture(scope="module")
def pair():
    return make_pair("p001", 0, SETTINGS)


def _whole(scene) -> np.ndarray:
    return np.concatenate(list(scene.strips(512)))


def _at(image: np.ndarray, xy: np.ndarray) -> np.ndarray:
    column, row = np.floor(xy).astype(int).T
    return image[row, column].astype(float)


@pytest.mark.parametrize("mirror", [False, True])
def test_every_ihc_cell_lies_where_the_picture_shows_it(mirror: bool) -> None:
    settings = PhantomSettings(size_mm=0.5, margin_mm=0.06, seed=2, mirror=mirror, rotation_deg=71)
    pair = make_pair("p001", 0, settings)
    image = _whole(pair.ihc)
    cells = pair.truth.ihc_cells
    tumour = pair.truth.ihc_nuclei.tumour
    brown = _at(image, cells.xy) @ [1.0, 0.0, -1.0]  # red minus blue: positive on brown, negative on blue
    positive = cells.cell_class == 1
    assert np.median(brown[tumour & positive]) > 10
    assert np.median(brown[tumour & ~positive]) < -40
    # the rank statistic: a positive nucleus is browner than a negative one
    order = brown[tumour & positive][:, None] > brown[tumour & ~positive][None, :]
    assert order.mean() > 0.97


def test_every_he_nucleus_is_dark_and_bluer_than_its_surroundings(pair) -> None:
    image = _whole(pair.he)
    red = _at(image, pair.truth.he_cells.xy)[:, 0]
    tissue_red = np.median(image[..., 0][image[..., 1] < 200])
    assert np.mean(red < tissue_red) > 0.9


def test_landmarks_obey_the_transform_and_its_inverse(pair) -> None:
    truth = pair.truth
    assert np.allclose(truth.transform.to_ihc(truth.landmarks_he), truth.landmarks_ihc)
    assert np.abs(truth.transform.to_he(truth.landmarks_ihc) - truth.landmarks_he).max() < 0.01
    size = pair.ihc.size
    assert (truth.landmarks_ihc > 0).all()
    assert (truth.landmarks_ihc < [size.width, size.height]).all()


def test_elastic_displacement_is_as_large_as_asked_and_no_larger(pair) -> None:
    displacement = pair.truth.transform.displacement
    length_um = np.hypot(displacement.values_px0[..., 0], displacement.values_px0[..., 1]) * SETTINGS.he_mpp
    assert 0.3 * SETTINGS.elastic_um < length_um.max() <= SETTINGS.elastic_um * 1.0001


def test_tile_table_counts_the_cells_of_its_windows(pair) -> None:
    truth = pair.truth
    step = WINDOW_UM / truth.he_mpp
    for index in np.flatnonzero(truth.tiles.usable):
        col, row = int(truth.tiles.col[index]), int(truth.tiles.row[index])
        counts = truth.counts_in(Box(col * step, row * step, step, step))
        assert (counts.positive, counts.negative) == (truth.tiles.positive[index], truth.tiles.negative[index])
        assert truth.tiles.ratio[index] == pytest.approx(counts.ratio)
    assert truth.tiles.positive.sum() == truth.summary["positive"]
    assert truth.summary["global_ratio"] == pytest.approx(truth.ihc_cells.counts().ratio)


def test_top_mean_is_the_mean_of_the_largest_usable_tiles(pair) -> None:
    truth = pair.truth
    ratios = np.sort(truth.tiles.ratio[truth.tiles.usable])[::-1][:30]
    assert truth.summary["top30_ratio"] == pytest.approx(ratios.mean())
    assert truth.summary["top_n"] == len(ratios)


def test_positive_cells_follow_the_field(pair) -> None:
    nuclei = pair.truth.ihc_nuclei
    tumour = nuclei.select(nuclei.tumour)
    for low, high in ((0.0, 0.15), (0.15, 0.35), (0.35, 1.0)):
        band = (tumour.field >= low) & (tumour.field < high)
        if np.count_nonzero(band) > 100:
            error = 4 * np.sqrt(0.25 / np.count_nonzero(band))
            assert tumour.positive[band].mean() == pytest.approx(tumour.field[band].mean(), abs=error)


def test_serial_sections_share_no_cells_and_restained_ones_share_all(pair) -> None:
    restained = make_pair("p001", 0, PhantomSettings(size_mm=0.8, margin_mm=0.06, seed=5, mode="restain")).truth
    assert np.array_equal(restained.he_nuclei.world_um, restained.ihc_nuclei.world_um)
    serial = pair.truth
    assert np.array_equal(serial.he_nuclei.world_um, restained.he_nuclei.world_um)
    assert not set(map(tuple, serial.he_nuclei.world_um)) & set(map(tuple, serial.ihc_nuclei.world_um))


def test_missing_tissue_takes_its_cells_along() -> None:
    changes = {"size_mm": 0.8, "margin_mm": 0.06, "seed": 5, "mode": "restain"}
    whole = make_pair("p001", 0, PhantomSettings(**changes)).truth
    torn = make_pair("p001", 0, PhantomSettings(**changes, artefacts=("missing",)))
    assert len(whole.ihc_nuclei) > len(torn.truth.ihc_nuclei)
    assert len(whole.he_nuclei) == len(torn.truth.he_nuclei)
    assert torn.truth.tiles.artefact_fraction.max() > 0.1
    # where the tissue is gone the picture shows glass
    kept = set(map(tuple, torn.truth.ihc_nuclei.world_um))
    lost = np.array([p for p in whole.ihc_nuclei.world_um if tuple(p) not in kept])
    grey = _at(_whole(torn.ihc), torn.truth.transform.to_ihc(lost / whole.he_mpp)).mean(axis=1)
    assert np.mean(grey > 215) > 0.9


def test_control_tissue_is_on_the_ihc_slide_only_and_not_in_the_truth() -> None:
    changes = {"size_mm": 0.5, "margin_mm": 0.06, "seed": 5}
    plain = make_pair("p001", 0, PhantomSettings(**changes))
    control = make_pair("p001", 0, PhantomSettings(**changes, artefacts=("control",)))
    assert control.he.size == plain.he.size
    assert control.ihc.size.width > plain.ihc.size.width + 350 / 0.46
    assert len(control.truth.ihc_nuclei) == len(plain.truth.ihc_nuclei)
    left = control.extra["control_x_ihc_px0"]
    assert (control.truth.ihc_cells.xy[:, 0] < left).all()
    assert (_whole(control.ihc)[:, int(left) :].mean(axis=2) < 180).mean() > 0.05


def test_truth_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    tiny = tiny_pair(tmp_path, size_mm=0.4)
    made = make_pair("p001", 0, tiny.settings).truth
    read = read_truth(tmp_path, "p001")
    for name in ("world_um", "kind", "positive", "dab_od", "chromatin", "mitosis"):
        assert np.array_equal(getattr(read.ihc_nuclei, name), getattr(made.ihc_nuclei, name)), name
    assert np.array_equal(read.transform.ihc_from_he.matrix, made.transform.ihc_from_he.matrix)
    assert np.array_equal(read.landmarks_ihc, made.landmarks_ihc)
    assert np.allclose(read.tiles.ratio, made.tiles.ratio, equal_nan=True, rtol=1e-8)
    assert read.summary == json.loads(json.dumps(made.summary))


def test_truth_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    tiny_pair(tmp_path, size_mm=0.3)
    with pytest.raises(InputError, match=r"truth\.json"):
        read_truth(tmp_path, "p999")
    data = (tmp_path / "truth/p001/truth.h5").read_bytes()
    (tmp_path / "truth/p001/truth.h5").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match="not whole"):
        read_truth(tmp_path, "p001")


def test_tiles_csv_is_readable_by_others(tmp_path: Path) -> None:
    tiny_pair(tmp_path, size_mm=0.3)
    with (tmp_path / "truth/p001/tiles.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {"col", "row", "ratio", "field_ratio", "positive", "negative"} <= set(rows[0])


def test_classes_differ_in_size_and_shape_as_in_tissue(pair) -> None:
    nuclei = pair.truth.ihc_nuclei
    area = {kind: np.median(nuclei.area_um2[nuclei.kind == kind]) for kind in (Kind.TUMOUR, Kind.LYMPHOCYTE)}
    assert area[Kind.TUMOUR] > 1.6 * area[Kind.LYMPHOCYTE]
    assert np.median(nuclei.elongation[nuclei.kind == Kind.FIBROBLAST]) > 2.5
    assert np.median(nuclei.elongation[nuclei.tumour]) < 1.5
