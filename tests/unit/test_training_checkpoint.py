"""A checkpoint comes back exactly, or says that it does not fit."""

import errno

import h5py
import keras
import numpy as np
import pytest

from virtual_stain.errors import ModelError, OutputError
from virtual_stain.training.checkpoint import Named, assign, named_values, read_checkpoint, write_checkpoint

VALUES = [Named("a/kernel", np.float32([[1, np.pi], [np.inf, -0.0]])), Named("b/step", np.int64(7))]


def test_it_comes_back_exactly(tmp_path):
    write_checkpoint(tmp_path / "x.h5", {"weights": VALUES, "empty": []}, {"step": 3, "loss": None})
    groups, state = read_checkpoint(tmp_path / "x.h5")
    assert state == {"step": 3, "loss": None}
    assert groups["empty"] == []
    for a, b in zip(groups["weights"], VALUES, strict=True):
        assert a.name == b.name
        assert a.value.dtype == b.value.dtype
        np.testing.assert_array_equal(a.value, b.value)
    assert [p.name for p in tmp_path.iterdir()] == ["x.h5"]


def test_a_weight_that_rotted_was_another_number_in_silence(tmp_path):
    path = tmp_path / "x.h5"
    write_checkpoint(path, {"weights": VALUES}, {"step": 3})
    data = path.read_bytes()
    weight = np.float32(np.pi).tobytes()
    assert data.count(weight) == 1
    path.write_bytes(data.replace(weight, np.float32(3).tobytes()))
    with pytest.raises(ModelError, match="the file is damaged"):
        read_checkpoint(path)
    with h5py.File(path, "r+") as file:  # one of an older version has no hash
        del file.attrs["sha256"]
    assert read_checkpoint(path)[0]["weights"][0].value[0, 1] == 3


def test_a_failed_write_leaves_the_old_one(tmp_path):
    write_checkpoint(tmp_path / "x.h5", {"weights": VALUES}, {"step": 3})
    with pytest.raises(ValueError):
        write_checkpoint(tmp_path / "x.h5", {"weights": VALUES}, {"step": float("nan")})
    assert read_checkpoint(tmp_path / "x.h5")[1] == {"step": 3}
    assert [p.name for p in tmp_path.iterdir()] == ["x.h5"]


def test_a_full_disk_is_a_sentence_and_the_old_one_stays(tmp_path, monkeypatch):
    path = tmp_path / "x.h5"
    write_checkpoint(path, {"weights": VALUES}, {"step": 3})

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(h5py.Group, "create_dataset", full)
        with pytest.raises(OutputError, match=r"x\.h5: cannot be written: the disk is full"):
            write_checkpoint(path, {"weights": VALUES}, {"step": 4})
    assert read_checkpoint(path)[1] == {"step": 3}


@pytest.mark.parametrize("damage", ["missing", "cut", "other"])
def test_what_is_no_checkpoint_is_named(tmp_path, damage):
    path = tmp_path / "x.h5"
    if damage == "cut":
        write_checkpoint(path, {"weights": VALUES}, {"step": 3})
        path.write_bytes(path.read_bytes()[:500])
    if damage == "other":
        keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save_weights(tmp_path / "y.weights.h5")
        (tmp_path / "y.weights.h5").rename(path)
    with pytest.raises(ModelError, match=r"x\.h5"):
        read_checkpoint(path)


def test_another_network_is_refused_before_anything_is_set(tmp_path):
    variables = [keras.Variable(np.zeros(3), name="kernel"), keras.Variable(np.zeros(2), name="bias")]
    values = named_values(variables)
    wrong = [Named(values[0].name, np.ones(3)), Named(values[1].name, np.ones(4))]
    with pytest.raises(ModelError, match="another network"):
        assign(variables, wrong, tmp_path)
    with pytest.raises(ModelError, match="another network"):
        assign(variables, values[:1], tmp_path)
    renamed = [Named("kernel", np.ones(3)), Named("gamma", np.ones(2))]
    with pytest.raises(ModelError, match="gamma"):
        assign(variables, renamed, tmp_path)
    assert all((v.numpy() == 0).all() for v in variables)


def test_the_numbers_that_keras_gives_layers_are_no_difference(tmp_path):
    variable = keras.Variable(np.zeros(3), name="conv2d_94_kernel")
    assign([variable], [Named("conv2d_kernel", np.ones(3))], tmp_path)
    assert (variable.numpy() == 1).all()
