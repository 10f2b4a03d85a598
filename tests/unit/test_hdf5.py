"""A disk that takes nothing more, as HDF5 meets it: while it writes, and when it closes."""

import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.fixtures.review import tiny_label
from virtual_stain import hdf5
from virtual_stain.errors import OutputError, VerificationError
from virtual_stain.files import full_disk
from virtual_stain.hdf5 import replacing_hdf5
from virtual_stain.labels.store import TileStore, write_tiles


@pytest.fixture
def small_disk(monkeypatch: pytest.MonkeyPatch):
    """Sets how many bytes the disk still takes."""

    class Raw:
        def __init__(self, stream, room):
            self._stream, self._room = stream, room

        def write(self, data):
            taken = min(len(data), self._room)
            if len(data) and not taken:
                raise OSError(28, os.strerror(28))
            self._room -= taken
            return self._stream.write(data[:taken])

        def __getattr__(self, name):
            return getattr(self._stream, name)

    def limit(room: int) -> None:
        made = hdf5._Disk.__init__

        def small(self, path):
            made(self, path)
            self._stream = Raw(self._stream, room)

        monkeypatch.setattr(hdf5._Disk, "__init__", small)

    return limit


def _fill(file: h5py.File) -> None:
    for i in range(300):
        file.create_dataset(f"group {i}/x", data=np.full(3, i))
    file["pixels"] = np.arange(30_000, dtype=np.uint8)


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    with replacing_hdf5(tmp_path / "a.h5") as file:
        _fill(file)
    with h5py.File(tmp_path / "a.h5", "r") as file:
        assert file["group 7/x"][:].tolist() == [7, 7, 7]
        assert np.array_equal(file["pixels"][:], np.arange(30_000, dtype=np.uint8))
    assert [p.name for p in tmp_path.iterdir()] == ["a.h5"]


@pytest.mark.parametrize("room", [0, 1, 100, 5_000, 31_000, 60_000, 200_000])
def test_h5py_masked_a_full_disk_when_it_closed_the_file(tmp_path: Path, small_disk, room: int) -> None:
    path = tmp_path / "a.h5"
    path.write_bytes(b"older")
    small_disk(room)
    with pytest.raises(OutputError, match="the disk is full"), replacing_hdf5(path) as file:
        _fill(file)
    assert path.read_bytes() == b"older"
    assert [p.name for p in tmp_path.iterdir()] == ["a.h5"]


def test_an_error_of_the_writer_is_not_taken_for_the_disks(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), replacing_hdf5(tmp_path / "a.h5") as file:
        file["x"] = 1 / 0
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_found_behind_what_a_library_made_of_it() -> None:
    def close() -> None:
        try:
            raise OSError(28, os.strerror(28), "/x/model.pb")
        finally:
            raise RuntimeError("Can't decrement id ref count")

    with pytest.raises(RuntimeError) as caught:
        close()
    found = full_disk(caught.value)
    assert found is not None
    assert "/x/model.pb: cannot be written: the disk is full" in found.message
    assert full_disk(ValueError("no")) is None


def _linked(file: h5py.File, name: str, other: Path) -> None:
    file[name] = h5py.ExternalLink(str(other), name)


def _virtual(file: h5py.File, name: str, other: Path) -> None:
    with h5py.File(other) as source:
        shape, dtype = source[name].shape, source[name].dtype
    layout = h5py.VirtualLayout(shape, dtype)
    layout[...] = h5py.VirtualSource(str(other), name, shape)
    file.create_virtual_dataset(name, layout)


def _raw(file: h5py.File, name: str, other: Path) -> None:
    file.create_dataset(name, shape=(3,), dtype="i4", external=[(str(other), 0, 12)])


@pytest.mark.parametrize("point", [_linked, _virtual, _raw])
def test_values_of_another_file_were_taken_for_its_own(tmp_path: Path, point) -> None:
    """A foreign tiles.h5 could show another patient's tiles, or bytes of any file, in the review."""
    rng = np.random.default_rng(0)
    write_tiles(tmp_path / "tiles.h5", [tiny_label(rng, 0, 0, tile_px=64, n=20)], "key")
    shutil.copy(tmp_path / "tiles.h5", tmp_path / "other.h5")
    TileStore(tmp_path / "tiles.h5").__exit__(None, None, None)
    with h5py.File(tmp_path / "tiles.h5", "r+") as file:
        del file["columns/col"]
        point(file, "columns/col", tmp_path / "other.h5")
    with pytest.raises(VerificationError, match="another file"):
        TileStore(tmp_path / "tiles.h5")
