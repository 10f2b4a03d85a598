"""What the network is fed: labels counted inside the crop, exact pixels, an order that can be taken up again."""

import tempfile

import numpy as np
import pytest
import tensorflow as tf

from tests.fixtures.records import tiny_records
from virtual_stain.config import AugmentSettings
from virtual_stain.dataset.pipeline import CropSpec, TrainingOrder, tile_batches, training_batches
from virtual_stain.dataset.shards import reading_errors, verify_shards
from virtual_stain.errors import InputError, VerificationError
from virtual_stain.markers import Marker
from virtual_stain.records.manifest import shard_paths
from virtual_stain.records.read import iterate_shard

PLAIN = AugmentSettings()  # what the pipeline does of it is the place of the crop; the rest happens in the step
SPEC = CropSpec(markers=(Marker.KI67,), tile_px=96, crop_px=32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("records")
    return path, tiny_records(path, tile_px=96, tiles_per_pair=6, patients=3, shard_bytes=30_000)


def order(**changes):
    values = {"batch_size": 4, "seed": 3, "shuffle_tiles": 8, "augment": AugmentSettings()}
    return TrainingOrder(**(values | changes))


def take(dataset, n):
    return [{k: v.numpy() for k, v in batch.items()} for batch in dataset.take(n)]


def test_order_goes_on_exactly_where_it_was(folder):
    path, manifest = folder
    whole = take(training_batches(path, manifest.pairs, SPEC, order()), 11)
    resumed = take(training_batches(path, manifest.pairs, SPEC, order(start_step=7)), 4)
    for expected, received in zip(whole[7:], resumed, strict=True):
        for name in expected:
            np.testing.assert_array_equal(expected[name], received[name], err_msg=name)


def test_an_epoch_holds_every_tile_once_and_epochs_differ(folder):
    path, manifest = folder
    batches = take(training_batches(path, manifest.pairs, SPEC, order(batch_size=18, augment=PLAIN)), 2)
    whole = CropSpec(markers=(Marker.KI67,), tile_px=96, crop_px=96)
    epochs = take(training_batches(path, manifest.pairs, whole, order(batch_size=18, augment=PLAIN)), 2)
    totals = sorted(r["label/positive"] for p in shard_paths(path, manifest.pairs) for r in iterate_shard(p))
    for epoch in epochs:
        assert sorted(epoch["positive"][:, 0]) == totals
    assert not np.array_equal(epochs[0]["positive"], epochs[1]["positive"])
    assert not np.array_equal(batches[0]["crop"], batches[1]["crop"])


def test_another_seed_is_another_order(folder):
    path, manifest = folder
    one, two = (take(training_batches(path, manifest.pairs, SPEC, order(seed=s)), 1)[0] for s in (0, 1))
    assert not np.array_equal(one["crop"], two["crop"])


@pytest.mark.parametrize("global_seed", [0, 5])
def test_the_order_takes_no_notice_of_a_seed_of_the_whole_process(folder, global_seed):
    """tf.data mixes the seed of an operation with TensorFlow's global one."""
    path, manifest = folder
    balanced = order(sampling="with_replacement", balance="ratio")
    expected = [take(training_batches(path, manifest.pairs, SPEC, o), 7) for o in (order(), balanced)]
    tf.random.set_seed(global_seed)
    received = [take(training_batches(path, manifest.pairs, SPEC, o), 7) for o in (order(), balanced)]
    for one, other in zip(expected, received, strict=True):
        for a, b in zip(one, other, strict=True):
            for name in a:
                np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_the_label_of_a_crop_is_that_of_its_pixels(folder):
    """Found by its pixels in the decoded tile, a crop holds exactly the cells that its label counts."""
    path, manifest = folder
    records = [r for p in shard_paths(path, manifest.pairs) for r in iterate_shard(p)]
    tiles = [tf.io.decode_jpeg(r["image/encoded"], dct_method="INTEGER_ACCURATE").numpy() for r in records]
    batch = take(training_batches(path, manifest.pairs, SPEC, order(augment=PLAIN)), 1)[0]
    for index in range(4):
        place = [
            (n, y, x)
            for n, tile in enumerate(tiles)
            for y, x in np.argwhere((tile[:65, :65] == batch["crop"][index][0, 0]).all(axis=2))
            if np.array_equal(tile[y : y + 32, x : x + 32], batch["crop"][index])
        ]
        assert len(place) == 1
        n, y0, x0 = place[0]
        x, y = np.array(records[n]["cells/x"]), np.array(records[n]["cells/y"])
        inside = (x >= x0) & (x < x0 + 32) & (y >= y0) & (y < y0 + 32)
        assert batch["cells"][index, 0] == inside.sum()
        assert batch["positive"][index, 0] == np.array(records[n]["cells/positive"])[inside].sum()
        assert batch["trusted"][index, 0] == records[n]["label/weight"]


def test_a_tile_without_a_ratio_still_teaches_the_number_of_cells(folder):
    path, manifest = folder
    batch = take(tile_batches(path, manifest.pairs, SPEC, 18), 1)[0]
    few = batch["trusted"][:, 0] == 0
    assert few.any()
    assert (batch["usable"][few] == 1).all()
    assert (batch["cells"].sum(axis=1)[few] > 0).all()


def test_validation_is_the_same_every_time_and_its_crops_sum_to_the_tile(folder):
    path, manifest = folder
    first, second = (take(tile_batches(path, manifest.pairs, SPEC, 5), 9) for _ in range(2))
    assert sum(len(b["tile"]) for b in first) == 18
    for a, b in zip(first, second, strict=True):
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])
    labels = [r["label/positive"] for p in shard_paths(path, manifest.pairs) for r in iterate_shard(p)]
    assert [int(v) for b in first for v in b["positive"].sum(axis=(1, 2))] == labels


def test_a_limit_of_tiles_keeps_every_pair(folder):
    path, manifest = folder
    kept = take(tile_batches(path, manifest.pairs, SPEC, 18, max_tiles=7), 1)[0]
    assert len(kept["tile"]) <= 7
    assert set(kept["pair"]) == {p.pair.encode() for p in manifest.pairs}


def test_a_record_of_another_marker_weighs_nothing_for_this_one(folder):
    path, manifest = folder
    spec = CropSpec(markers=(Marker.ER, Marker.KI67), tile_px=96, crop_px=32)
    batch = take(training_batches(path, manifest.pairs, spec, order()), 1)[0]
    assert batch["cells"].shape == (4, 2)
    for name in ("cells", "positive", "trusted", "usable"):
        assert (batch[name][:, 0] == 0).all()
    assert (batch["usable"][:, 1] == 1).all()


def test_a_shard_edited_after_the_manifest_is_found_before_training(tmp_path):
    manifest = tiny_records(tmp_path, tile_px=64, tiles_per_pair=2, patients=3)
    verify_shards(tmp_path, manifest.pairs)
    shards = shard_paths(tmp_path, manifest.pairs)
    data = bytearray(shards[1].read_bytes())
    data[len(data) // 2] ^= 1
    shards[1].write_bytes(data)
    shards[2].unlink()
    with pytest.raises(VerificationError) as caught:
        verify_shards(tmp_path, manifest.pairs)
    assert f"{shards[1]}: changed" in str(caught.value)
    assert f"{shards[2]}: missing" in str(caught.value)
    with pytest.raises(VerificationError, match="cannot be read"), reading_errors(tmp_path):
        list(tile_batches(tmp_path, manifest.pairs, CropSpec(markers=(Marker.KI67,), tile_px=64, crop_px=32), 2))


def test_no_shards_is_an_error(folder):
    with pytest.raises(InputError, match="Expected|expected shards"):
        training_batches(folder[0], (), SPEC, order())


def test_tiles_without_a_label_can_be_left_out(folder):
    path, manifest = folder
    kept = take(tile_batches(path, manifest.pairs, SPEC, 18, labelled_only=True), 1)[0]
    assert len(kept["tile"]) == sum(p.n_ratio for p in manifest.pairs) < 18
    assert (kept["trusted"] == 1).all()


@pytest.mark.parametrize("sampling", ["without_replacement", "with_replacement"])
@pytest.mark.parametrize("balance", ["none", "ratio", "patient"])
def test_every_way_of_drawing_goes_on_exactly_where_it_was(folder, sampling, balance):
    path, manifest = folder
    how = {"sampling": sampling, "balance": balance}
    whole = take(training_batches(path, manifest.pairs, SPEC, order(**how)), 11)
    resumed = take(training_batches(path, manifest.pairs, SPEC, order(start_step=7, **how)), 4)
    for expected, received in zip(whole[7:], resumed, strict=True):
        for name in expected:
            np.testing.assert_array_equal(expected[name], received[name], err_msg=name)


def test_with_replacement_an_epoch_repeats_some_tiles_and_leaves_others(folder):
    path, manifest = folder
    batches = training_batches(path, manifest.pairs, SPEC, order(batch_size=18, sampling="with_replacement"))
    for epoch in take(batches, 3):
        assert 6 <= len(set(epoch["tile"].tolist())) < 18
    assert len(set(np.concatenate([e["tile"] for e in take(batches, 12)]).tolist())) == 18
    repeated = take(batches, 1)[0]
    places = {(t, *o) for t, o in zip(repeated["tile"].tolist(), repeated["origin"].tolist(), strict=True)}
    assert len(places) > len(set(repeated["tile"].tolist())), "another crop every time"


def test_workers_share_every_batch_between_them(folder):
    path, manifest = folder
    whole = take(training_batches(path, manifest.pairs, SPEC, order()), 5)
    parts = [take(training_batches(path, manifest.pairs, SPEC, order(worker=w, workers=2)), 5) for w in range(2)]
    for step, batch in enumerate(whole):
        for name in batch:
            joined = np.concatenate([parts[w][step][name] for w in range(2)])
            np.testing.assert_array_equal(batch[name], joined, err_msg=name)


def test_a_rescaled_crop_counts_the_cells_of_its_window(folder):
    path, manifest = folder
    scaled = AugmentSettings(rescale=0.05)
    batches = take(training_batches(path, manifest.pairs, SPEC, order(augment=scaled)), 20)
    plain = take(training_batches(path, manifest.pairs, SPEC, order()), 20)
    assert batches[0]["crop"].shape == (4, 32, 32, 3)
    scaled_cells, cells = (np.concatenate([b["cells"] for b in group]).sum() for group in (batches, plain))
    assert 0.8 < scaled_cells / cells < 1.25
    assert any(not np.array_equal(a["crop"], b["crop"]) for a, b in zip(batches, plain, strict=True))


def test_no_function_is_translated_into_a_temporary_file(folder, tmp_path, monkeypatch):
    """A killed training left 71 of them in the system's folder."""
    path, manifest = folder
    made = []
    original = tempfile.NamedTemporaryFile

    def noted(*arguments, **options):
        made.append(options.get("prefix", ""))
        return original(*arguments, **options)

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", noted)
    take(training_batches(path, manifest.pairs, SPEC, order(sampling="with_replacement")), 1)
    take(tile_batches(path, manifest.pairs, SPEC, 2, labelled_only=True), 1)
    assert not [name for name in made if "autograph" in name]
