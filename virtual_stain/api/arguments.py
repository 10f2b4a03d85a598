"""Plain arguments as the stages want them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from virtual_stain.config import Config, load_config
from virtual_stain.errors import ConfigError, InputError, ResolutionError
from virtual_stain.progress import QUIET, Console, Progress
from virtual_stain.slides.slide import SlideRef

T = TypeVar("T")

PathLike = str | os.PathLike[str]
Mpp = float | tuple[float, float] | None
"""µm per level-0 px, one number or (x, y). None: the file states it. A file that states none is refused."""
Settings = Mapping[str, Any] | None
"""{"section.key": value}, as `--set` on the command line."""
Tracker = Callable[[str, int, int], None] | bool | None
"""A function that is called as (what, done, total). True: a bar or lines on stderr. None: quiet."""


class _Calls:
    """Reports progress to a function that the caller gave."""

    def __init__(self, tell: Callable[[str, int, int], None]) -> None:
        self._tell = tell

    def track(self, items: Iterable[T], total: int, label: str, unit: str = "it") -> Iterator[T]:
        self._tell(label, 0, total)
        for done, item in enumerate(items, 1):
            yield item
            self._tell(label, done, total)

    def say(self, text: str) -> None:
        pass  # warnings stand in the result


def progress_of(tracker: Tracker) -> Progress:
    """The object to which a stage reports how far it is."""
    if callable(tracker):
        return _Calls(tracker)
    return Console() if tracker else QUIET


def mpp_of(mpp: Mpp) -> tuple[float, float] | None:
    """(x, y) µm/px. Raises ConfigError for anything but one or two positive numbers."""
    if mpp is None:
        return None
    try:
        x, y = (mpp, mpp) if isinstance(mpp, (int, float)) else mpp
        pair = float(x), float(y)
    except (TypeError, ValueError):
        raise ConfigError(f"mpp: expected µm per px, one number or (x, y). Received: {mpp!r}") from None
    if not all(0 < value < float("inf") for value in pair):
        raise ConfigError(f"mpp: expected µm per px above 0. Received: {mpp!r}")
    return pair


def slide_of(slide: PathLike, mpp: Mpp = None) -> SlideRef:
    """A reference to a slide: its file, and the pixel size that the caller states for it."""
    return SlideRef(Path(slide), mpp_of(mpp))


def config_of(config: PathLike | Config | None, settings: Settings) -> Config:
    """The configuration: a TOML file, a `Config` or the defaults, with single settings changed. Raises ConfigError."""
    if isinstance(config, Config):
        if settings:
            raise ConfigError("config: expected a file beside settings. Received: a Config, which holds them already")
        return config
    changes = [f"{name}={json.dumps(value)}" for name, value in (settings or {}).items()]
    return load_config(None if config is None else Path(config), changes)


@contextlib.contextmanager
def written_picture(picture: PathLike | npt.NDArray[np.uint8], mpp: Mpp) -> Iterator[PathLike]:
    """Yields a path to the picture. Pixels are written to a lossless temporary file, which is deleted afterwards.

    Raises InputError for an array of another shape or type, and ResolutionError for pixels without a pixel size.
    """
    if not isinstance(picture, np.ndarray):
        yield picture
        return
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
        raise InputError(f"expected pixels as uint8[H, W, 3], RGB. Received: {picture.dtype}{list(picture.shape)}")
    if mpp is None:
        raise ResolutionError("pixels have no pixel size of their own.", hint="Give mpp=…, µm per px.")
    with tempfile.TemporaryDirectory(prefix="vstain-") as folder:
        path = Path(folder) / "pixels.png"
        Image.fromarray(picture).save(path)
        yield path


class OutputFolder:
    """The folder of a result. If the caller gave none, it is a temporary folder that lives as long as the result."""

    def __init__(self, out: PathLike | None) -> None:
        if out is not None:
            self.path = Path(out)
            return
        self.path = Path(tempfile.mkdtemp(prefix="vstain-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


class HasFolder:
    """A result whose files lie in a folder."""

    __slots__ = ()
    _out: OutputFolder

    @property
    def folder(self) -> Path:
        """Where the files are. Without `out` it is a temporary folder, which is removed with this object."""
        return self._out.path
