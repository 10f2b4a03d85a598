"""Slides on a slow network share, copied to a local folder ahead of use: while one is scored, the next one comes.

At most two copies exist at a time, each is removed after use. Where a copy cannot be made (no room, several files), the
slide is read where it is: staging makes a run faster and never makes one fail.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from virtual_stain.slides.slide import SlideRef

_NETWORK = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse.sshfs", "9p", "ceph", "glusterfs", "fuse.rclone", "afs"}
_MANY_FILES = {".mrxs", ".vms", ".vmu", ".dcm", ".ini"}  # the named file is only an index of a folder
_PREFIX = "vstain-stage-"
_ROOM = 1.1  # of the file's size must be free
_CHUNK = 8 * 2**20


def on_network(path: Path, mounts: Path = Path("/proc/mounts")) -> bool:
    """Whether the file lies on a network file system, as far as the system says."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
        place = str(path.resolve())
    except OSError:
        return False
    best, kind = "", ""
    for line in lines:
        fields = line.split()
        if len(fields) < 3:
            continue
        point = fields[1].replace("\\040", " ")
        if (place == point or place.startswith(point.rstrip("/") + "/")) and len(point) > len(best):
            best, kind = point, fields[2]
    return kind in _NETWORK


def remove_left_behind(parent: Path) -> None:
    """Removes copies of processes of this machine that were killed: they are slides of patients."""
    if sys.platform == "win32":
        return  # signal 0 asks for nothing there: it is Ctrl-C
    own = f"{_PREFIX}{socket.gethostname()}-"
    for path in parent.glob(f"{own}*"):
        number = path.name.removeprefix(own).partition("-")[0]
        if not number.isdecimal() or path.is_symlink():
            continue
        try:
            os.kill(int(number), 0)
        except ProcessLookupError:
            shutil.rmtree(path, ignore_errors=True)
        except OSError:
            continue  # somebody else's process


def worth_a_copy(ref: SlideRef, folder: Path | None) -> bool:
    """Whether a slide is staged: every one to `folder`, without it those on a network."""
    return _single_file(ref) and (folder is not None or on_network(ref.path))


class Stager:
    """Copies of the slides that are worth one; a context manager."""

    def __init__(self, refs: Sequence[SlideRef], folder: Path | None, say: Callable[[str], None]) -> None:
        """`folder`: where copies go, for every slide; None: the system's temporary folder, for slides on a network."""
        self._say = say
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="staging")
        self._wanted = [r for r in refs if worth_a_copy(r, folder)]
        self._index = {ref: i for i, ref in enumerate(self._wanted)}
        self._parent = folder
        self._copies: dict[SlideRef, Future[Path | None]] = {}
        self._stack = contextlib.ExitStack()
        self._folder: Path | None = None

    def __enter__(self) -> Stager:
        if self._wanted:
            if self._parent is not None:
                self._parent.mkdir(parents=True, exist_ok=True)
            parent = Path(tempfile.gettempdir()) if self._parent is None else self._parent
            remove_left_behind(parent)
            prefix = f"{_PREFIX}{socket.gethostname()}-{os.getpid()}-"
            name = self._stack.enter_context(tempfile.TemporaryDirectory(prefix=prefix, dir=parent))
            self._folder = Path(name)
            self._order(0)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._stack.close()

    @contextlib.contextmanager
    def local(self, ref: SlideRef) -> Iterator[SlideRef]:
        """The slide to read: its copy, or itself. The next copy is begun meanwhile."""
        future = self._copies.pop(ref, None)
        copy = None if future is None else future.result()
        if ref in self._index:
            self._order(self._index[ref] + 1)
        try:
            yield ref if copy is None else dataclasses.replace(ref, path=copy, name=ref.stem)
        finally:
            if copy is not None:
                copy.unlink(missing_ok=True)

    def _order(self, index: int) -> None:
        if index < len(self._wanted):
            ref = self._wanted[index]
            self._copies[ref] = self._pool.submit(self._copy, ref, index)

    def _copy(self, ref: SlideRef, index: int) -> Path | None:
        assert self._folder is not None
        target = self._folder / f"{index}{ref.path.suffix}"
        try:
            size = ref.path.stat().st_size
            free = shutil.disk_usage(self._folder).free
            if free < size * _ROOM:
                self._say(f"{ref.path}: read where it is: {free / 1e9:.1f} GB free for a copy of {size / 1e9:.1f} GB.")
                return None
            with ref.path.open("rb") as source, target.open("wb") as copy:
                while not self._stop.is_set() and (data := source.read(_CHUNK)):
                    copy.write(data)
            if self._stop.is_set() or target.stat().st_size != size:
                target.unlink(missing_ok=True)
                return None
        except OSError as error:
            target.unlink(missing_ok=True)
            self._say(f"{ref.path}: read where it is; it could not be copied: {error.strerror}")
            return None
        return target


def _single_file(ref: SlideRef) -> bool:
    return ref.path.suffix.lower() not in _MANY_FILES
