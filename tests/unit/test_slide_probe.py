"""Files over which a library ends its process: found out in a child, told of the slide, and nothing else ends."""

import struct
from pathlib import Path

import numpy as np
import pytest

from tests.fixtures.slides import write_tiled_tiff
from virtual_stain.errors import SlideError
from virtual_stain.slides import probe
from virtual_stain.slides.probe import require_survivable
from virtual_stain.slides.slide import SlideRef, open_slide

_TILE_LENGTH = 323


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slides") / "a.tif"
    write_tiled_tiff(path, np.full((256, 256, 3), 200, np.uint8), 0.3)
    return path


def _with_tag(source: Path, target: Path, tag: int, value: int) -> Path:
    """The TIFF with one value of its first directory replaced."""
    data = bytearray(source.read_bytes())
    assert data[:4] == b"II*\0"
    (at,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, at)
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        if struct.unpack_from("<H", data, entry)[0] == tag:
            struct.pack_into("<HII", data, entry + 2, 4, 1, value)
            target.write_bytes(data)
            return target
    raise AssertionError("no such tag")


def test_a_sound_slide_is_asked_about_once(slide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_survivable(SlideRef(slide))
    asked: list[Path] = []
    monkeypatch.setattr(probe._CHILD, "_ask", asked.append)
    require_survivable(SlideRef(slide))
    assert asked == []


def test_a_tile_length_of_two_gigapixels_ended_the_batch(slide: Path, tmp_path: Path) -> None:
    bad = _with_tag(slide, tmp_path / "bad.tif", _TILE_LENGTH, 2**31 - 1)
    with pytest.raises(SlideError):
        require_survivable(SlideRef(bad))
        with open_slide(SlideRef(bad)) as opened:
            opened.overview(max_px=64)
    other = tmp_path / "other.tif"
    other.write_bytes(slide.read_bytes())
    require_survivable(SlideRef(other))  # the next one gets a new child


def test_a_child_that_died_is_replaced(slide: Path, tmp_path: Path) -> None:
    killer = probe._Child()
    other = tmp_path / "b.tif"
    other.write_bytes(slide.read_bytes())
    try:
        first = killer._running()
        first.kill()
        first.wait()
        assert killer.survives(other) is None
        assert killer.survives(slide) is None
        assert killer._running() is not first
    finally:
        killer.close()
    assert killer._process is None


def test_what_cannot_be_opened_is_left_to_the_opening(tmp_path: Path) -> None:
    (tmp_path / "x.svs").write_bytes(b"no slide")
    require_survivable(SlideRef(tmp_path / "x.svs"), SlideRef(tmp_path / "missing.svs"), SlideRef(tmp_path))
    with pytest.raises(SlideError), open_slide(SlideRef(tmp_path / "x.svs")):
        pass


def test_how_the_child_ended_is_told(slide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe._CHILD, "survives", lambda path: "signal SIGABRT")
    with pytest.raises(SlideError, match=r"ends the process that reads it \(signal SIGABRT\)"):
        require_survivable(SlideRef(slide))
