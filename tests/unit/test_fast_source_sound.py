"""The fast reader's decoder tells of corrupt data, so that no sound tile is decoded twice."""

import struct

import imagecodecs
import numpy as np
import pytest

from tests.fixtures.slides import write_tiled_tiff
from virtual_stain.errors import SlideError
from virtual_stain.geometry import Size
from virtual_stain.slides import damage
from virtual_stain.slides.jpeg_tiles import _saying, _without_remark
from virtual_stain.slides.slide import SlideRef, open_slide

ADOBE = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"
JFIF = b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"


@pytest.fixture
def noise():
    return np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)


def _bare(noise):
    """A JPEG stream without JFIF's and Adobe's markers, its colours as they are."""
    data = imagecodecs.jpeg8_encode(noise, level=90, colorspace="YCBCR", outcolorspace="YCBCR", subsampling="444")
    at, parts = 2, [data[:2]]
    while data[at + 1] != 0xDA:
        (length,) = struct.unpack_from(">H", data, at + 2)
        if data[at + 1] not in (0xE0, 0xEE):
            parts.append(data[at : at + 2 + length])
        at += 2 + length
    return b"".join([*parts, data[at:]])


@pytest.mark.parametrize("colour", ["RGB", "YCBCR"])
@pytest.mark.parametrize(
    "markers", [b"", JFIF, ADOBE + b"\0", ADOBE + b"\1", JFIF + ADOBE + b"\0", ADOBE + b"\0" + JFIF]
)
def test_either_decoder_gives_the_same_pixels_or_one_leaves_the_tile_to_the_other(noise, colour, markers):
    data = _bare(noise)
    data = data[:2] + markers + data[2:]
    known = _saying(data, colour)
    if markers == b"":
        assert known is not None
    if known is not None:
        expected = imagecodecs.jpeg8_decode(data, colorspace=colour, outcolorspace="RGB")
        assert np.array_equal(_without_remark(known, Size(64, 64)), expected)


def test_a_tile_whose_data_end_early_is_left_to_the_other_decoder(noise):
    data = _bare(noise)
    assert _without_remark(data[:-2], Size(64, 64)) is not None  # the end marker alone is missing
    assert _without_remark(data[: len(data) // 2], Size(64, 64)) is None


def test_no_sound_tile_is_decoded_a_second_time_and_a_broken_one_is_found(tmp_path, noise, monkeypatch):
    path = write_tiled_tiff(tmp_path / "a.tif", np.tile(noise, (8, 8, 1)), 0.5, compression="jpeg")
    looked_at = []
    original = damage.jpeg_problem
    monkeypatch.setattr(damage, "jpeg_problem", lambda data: looked_at.append(1) or original(data))
    with open_slide(SlideRef(path)) as slide:
        assert slide.format == "generic-tiff"
        slide.read_level(0, 0, 0, (512, 512))
        assert looked_at == []
    content = bytearray(path.read_bytes())
    within = content.index(b"\xff\xda") + 5000  # the first tile's data
    content[within : within + 2000] = bytes(2000)
    path.write_bytes(content)
    with open_slide(SlideRef(path)) as slide, pytest.raises(SlideError, match="cannot be trusted"):
        slide.read_level(0, 0, 0, (512, 512))
    assert len(looked_at) >= 1
