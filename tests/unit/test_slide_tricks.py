"""Files that were made to mislead or to hang: what format or decoder can know is told, and nothing runs for ever."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile

from tests.fixtures.slides import write_tiled_tiff
from tests.unit.test_slide_damage import SIZE, picture
from tools.harness.dicom_files import write_dicom_slide
from virtual_stain.errors import SlideError
from virtual_stain.geometry import Size
from virtual_stain.slides.slide import SlideRef, open_slide

TILE = Size(256, 256)


def _slide(path: Path, compression: str) -> Path:
    return write_tiled_tiff(path, picture(), 0.5, levels=(1, 4), compression=compression)


def _changed(path: Path, change: Callable[[bytearray], None]) -> Path:
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)
    return path


def _entry(data: bytearray, tag: int) -> int:
    """Where the first directory tells of a tag."""
    (at,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, at)
    return next(p for p in range(at + 2, at + 2 + 12 * count, 12) if struct.unpack_from("<H", data, p)[0] == tag)


def _tiles_of(path: Path) -> tuple[tuple[int, ...], tuple[int, ...]]:
    with tifffile.TiffFile(path) as file:
        page = file.pages[0].aspage()
        return tuple(page.dataoffsets), tuple(page.databytecounts)


def _readable(path: Path) -> list[bool]:
    """Of each tile of level 0, whether it is taken for tissue or glass."""
    found = []
    with open_slide(SlideRef(path)) as slide:
        for y in range(0, SIZE, 256):
            for x in range(0, SIZE, 256):
                try:
                    slide.read_patch(0, x, y, TILE)
                    found.append(True)
                except SlideError:
                    found.append(False)
    return found


@pytest.mark.parametrize("back_to", [0, 1], ids=["first", "itself"])
def test_directories_in_a_circle_hung_for_ever(tmp_path: Path, back_to: int) -> None:
    path = _slide(tmp_path / "a.tiff", "jpeg")
    with tifffile.TiffFile(path) as file:
        places = [page.offset for page in file.pages]

    def circle(data: bytearray) -> None:
        (count,) = struct.unpack_from("<H", data, places[1])
        struct.pack_into("<I", data, places[1] + 2 + 12 * count, places[back_to])

    assert all(_readable(_changed(path, circle)))


def test_broken_deflate_tiles_were_taken_for_tissue(tmp_path: Path) -> None:
    path = _slide(tmp_path / "a.tiff", "deflate")
    offsets, counts = _tiles_of(path)

    def rot(data: bytearray) -> None:
        for offset, count in zip(offsets[::2], counts[::2], strict=True):
            at = offset + count // 2
            data[at : at + count // 8] = bytes(count // 8)

    assert all(_readable(path))
    assert _readable(_changed(path, rot)) == [number % 2 == 1 for number in range(16)]


@pytest.mark.parametrize("compression", ["jpeg", "deflate"])
def test_one_tile_in_the_place_of_all_was_taken_for_tissue(tmp_path: Path, compression: str) -> None:
    path = _slide(tmp_path / "a.tiff", compression)

    def copies(data: bytearray) -> None:
        for tag in (324, 325):
            at = _entry(data, tag)
            kind, number, place = struct.unpack_from("<HII", data, at + 2)
            width, form = (2, "<H") if kind == 3 else (4, "<I")
            value = struct.unpack_from(form, data, place + 5 * width)[0]
            for index in range(number):
                struct.pack_into(form, data, place + index * width, value)

    assert not any(_readable(_changed(path, copies)))


@pytest.mark.parametrize("compression", ["jpeg", "deflate"])
def test_one_tile_of_bare_glass_for_all_bare_places_is_no_damage(tmp_path: Path, compression: str) -> None:
    path = tmp_path / "a.tiff"
    write_tiled_tiff(path, np.full((SIZE, SIZE, 3), 243, np.uint8), 0.5, compression=compression)

    def once(data: bytearray) -> None:
        at = _entry(data, 324)
        number, place = struct.unpack_from("<II", data, at + 4)
        for index in range(number):
            struct.pack_into("<I", data, place + 4 * index, struct.unpack_from("<I", data, place)[0])

    assert all(_readable(_changed(path, once)))


def test_a_tile_that_swells_to_gigabytes_is_not_followed(tmp_path: Path) -> None:
    path = _slide(tmp_path / "a.tiff", "deflate")

    def bomb(data: bytearray) -> None:
        packed = zlib.compress(bytes(50_000_000), 9)
        for tag, value in ((324, len(data)), (325, len(packed))):
            kind, _, place = struct.unpack_from("<HII", data, _entry(data, tag) + 2)
            struct.pack_into("<H" if kind == 3 else "<I", data, place, min(value, 65535 if kind == 3 else value))
        data += packed

    assert _readable(_changed(path, bomb)) == [False] + [True] * 15


@pytest.mark.parametrize("side", [8192, 2**31 - 16])
def test_a_tile_of_a_gigabyte_took_minutes_a_slide(tmp_path: Path, side: int) -> None:
    """A megabyte in the file; every window of it decoded the whole tile again."""
    path = _slide(tmp_path / "a.tiff", "deflate")

    def widen(data: bytearray) -> None:
        for tag in (322, 323):
            struct.pack_into("<HII", data, _entry(data, tag) + 2, 4, 1, side)

    with pytest.raises(SlideError, match="at most 4096 × 4096 px"), open_slide(SlideRef(_changed(path, widen))):
        pass


def test_a_dicom_header_of_gigapixels_asked_for_their_memory(tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    path = tmp_path / "a.dcm"
    write_dicom_slide(path, picture()[:512, :512], 0.5)
    with open_slide(SlideRef(path)) as slide:
        assert slide.read_level(0, 128, 128, Size(64, 64)).shape == (64, 64, 3)
    data = pydicom.dcmread(path)
    data.TotalPixelMatrixRows = 2**32 - 1
    data.save_as(path)
    with pytest.raises(SlideError, match="at most 1600000 px a side"), open_slide(SlideRef(path)):
        pass


def _ome(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "a.ome.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(picture(), tile=(256, 256), photometric="rgb", description=text, metadata=None)
    return path


_PIXELS = '<Image><Pixels SizeX="1024" SizeY="1024" PhysicalSizeX="{0}" PhysicalSizeY="{0}"/></Image>'
_OME = '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">{}</OME>'


def test_two_images_of_one_size_with_other_pixel_sizes_are_told(tmp_path: Path) -> None:
    text = _OME.format(_PIXELS.format("0.5") + _PIXELS.format("0.25"))
    with open_slide(SlideRef(_ome(tmp_path, text))) as slide:
        assert any("0.5" in w and "0.25" in w for w in slide.warnings), slide.warnings


def test_entities_in_ome_xml_are_told_and_not_followed(tmp_path: Path) -> None:
    head = '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "0.25">]>'
    with open_slide(SlideRef(_ome(tmp_path, head + _OME.format(_PIXELS.format("&b;"))))) as slide:
        assert slide.mpp is None
        assert any("entities" in note for note in slide.notes)
