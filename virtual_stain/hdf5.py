"""HDF5 that reads nothing but its own file, and is written so that a full disk is told like everywhere else.

A file of this format may point to others, whose content would be taken for its own: another patient's tiles, or any
file of the machine. Ours never do, so one that does is refused.

The library holds much of a file back until it is closed. When that fails, it masks the reason, and its own state is
broken until the process ends. So it never meets a failure: what the disk refuses is kept, and raised after closing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from virtual_stain.files import replacing


@contextlib.contextmanager
def replacing_hdf5(path: Path, **options: Any) -> Iterator[h5py.File]:
    """An HDF5 file to fill, which takes the place of `path` whole or not at all. Raises OutputError.

    `options`: of `h5py.File`.
    """
    with replacing(path) as temporary, _Disk(temporary) as disk:
        try:
            with h5py.File(disk, "w", **options) as file:
                yield file
        except BaseException:
            if disk.refusal is None:
                raise
        if disk.refusal is not None:
            raise disk.refusal


def open_hdf5(path: Path) -> h5py.File:
    """The file, open for reading; the caller closes it. Raises OSError, also where it points to other files."""
    file = h5py.File(path, "r")
    try:
        for problem in _outside(file, set()):
            raise OSError(problem)
    except _DAMAGED as error:
        file.close()
        raise OSError(str(error)) from error
    return file


_DAMAGED = (OSError, KeyError, ValueError, RuntimeError)  # whoever reads such an object is told


def _outside(group: h5py.Group, seen: set[int]) -> Iterator[str]:
    """What of a group lies in other files. Groups may hold each other."""
    place = h5py.h5o.get_info(group.id).addr
    if place in seen:
        return
    seen.add(place)
    for name in group:
        try:
            link = group.get(name, getlink=True)
            found = group[name] if isinstance(link, h5py.HardLink) else None
        except _DAMAGED:
            continue
        if isinstance(link, h5py.ExternalLink):
            yield f"{name} lies in another file, {link.filename}"
        elif isinstance(found, h5py.Group):
            yield from _outside(found, seen)
        elif isinstance(found, h5py.Dataset) and (found.is_virtual or found.external):
            yield f"{name} has its values from another file"


MOST_BYTES = 4_000_000_000
"""Of one table in memory: a file of a few bytes can claim to hold any number of them."""


def read_array(dataset: h5py.Dataset) -> npt.NDArray[Any]:
    """All values. Raises ValueError for more of them than any file of ours holds."""
    if dataset.size * dataset.dtype.itemsize > MOST_BYTES:
        raise ValueError(f"{dataset.name}: expected at most {MOST_BYTES} bytes. Received: {dataset.shape}")
    return np.asarray(dataset[()])


class _Disk:
    """A binary file for h5py whose writes never fail: the first refusal is kept, and nothing is written after it."""

    def __init__(self, path: Path) -> None:
        self._stream = path.open("w+b", buffering=0)
        self.refusal: BaseException | None = None

    def __enter__(self) -> _Disk:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        if self.refusal is None:
            try:
                self._write_all(view)
            except BaseException as error:  # Ctrl-C too: it must not end up in the library
                self.refusal = error
        return len(view)

    def _write_all(self, view: memoryview) -> None:
        done = 0
        while done < len(view):  # a nearly full disk takes a part, and only then refuses
            done += self._stream.write(view[done:])

    def read(self, size: int = -1) -> bytes:
        """There for h5py to know a file by; it reads with `readinto`."""
        return self._stream.read(size) or b""

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        found = self._stream.readinto(view)
        view[found:] = bytes(len(view) - found)
        return len(view)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def truncate(self, size: int | None = None) -> int:
        if self.refusal is None:
            try:
                self._stream.truncate(size)
            except OSError as error:
                self.refusal = error
        return self._stream.tell() if size is None else size

    def flush(self) -> None:
        """Unbuffered: there is nothing to flush."""
