"""Opening and reading slides: what works, and how everything else is refused."""

from __future__ import annotations

import hashlib
import pickle
import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.fixtures.slides import MemorySource, memory_slide, write_tiled_tiff
from virtual_stain.errors import ResolutionError, SlideError
from virtual_stain.geometry import Box, Size
from virtual_stain.slides import image_source
from virtual_stain.slides.openslide_source import _on_white
from virtual_stain.slides.slide import Slide, SlideRef, open_slide
from virtual_stain.slides.tiff_description import describe_tiff
from virtual_stain.slides.window import read_window


@pytest.fixture
def rgb():
    return np.random.default_rng(7).integers(0, 256, (530, 610, 3), np.uint8)


def test_a_tiled_pyramid_reads_back_exactly(tmp_path, rgb):
    path = write_tiled_tiff(tmp_path / "Präparat 7 (Ki-67).tif", rgb, 0.25, levels=(1, 2, 4))
    with open_slide(SlideRef(path)) as slide:
        assert slide.name == "Präparat 7 (Ki-67)"
        assert slide.size == Size(610, 530)
        assert slide.level_count == 3
        assert slide.level_downsamples == (1.0, 2.0, 4.0)
        assert slide.bounds == Box(0, 0, 610, 530)
        assert np.array_equal(slide.read_level(0, 0, 0, slide.size), rgb)
        assert np.array_equal(slide.read_level(0, 100, 50, Size(64, 32)), rgb[50:82, 100:164])
        assert slide.content_hash() == hashlib.sha256(path.read_bytes()).hexdigest()


def test_reading_beyond_the_slide_is_white(tmp_path, rgb):
    with open_slide(SlideRef(write_tiled_tiff(tmp_path / "a.tif", rgb, 0.25))) as slide:
        image = slide.read_level(0, -20, -10, Size(50, 40))
        assert (image[:10] == 255).all()
        assert (image[:, :20] == 255).all()
        assert np.array_equal(image[10:, 20:], rgb[:30, :30])
        image = slide.read_level(0, 600, 500, Size(50, 40))
        assert np.array_equal(image[:30, :10], rgb[500:, 600:])
        assert (image[30:] == 255).all()
        assert (slide.read_level(0, 5000, 5000, Size(4, 4)) == 255).all()


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_plain_images_are_slides(tmp_path, rgb, suffix):
    path = tmp_path / f"field{suffix}"
    Image.fromarray(rgb).save(path)
    with open_slide(SlideRef(path, (0.5, 0.5), name="field 3")) as slide:
        assert slide.format.startswith("image/")
        assert slide.name == "field 3"
        assert slide.mpp.origin == "override"
        assert np.array_equal(slide.read_level(0, 30, 40, Size(100, 50)), rgb[40:90, 30:130])
        assert (slide.read_level(0, -5, 0, Size(5, 5)) == 255).all()


def test_a_jpeg_is_a_slide_without_pixel_size(tmp_path, rgb):
    Image.fromarray(rgb).save(tmp_path / "a.jpg", dpi=(300, 300))
    with open_slide(SlideRef(tmp_path / "a.jpg")) as slide:
        assert slide.mpp is None
        with pytest.raises(ResolutionError, match="no pixel size"):
            slide.overview(mpp=8)


def test_transparency_is_white_and_a_palette_is_exact(tmp_path):
    rgba = np.zeros((20, 20, 4), np.uint8)
    rgba[:10] = (200, 0, 0, 255)
    Image.fromarray(rgba, "RGBA").save(tmp_path / "a.png")
    with open_slide(SlideRef(tmp_path / "a.png")) as slide:
        image = slide.read_level(0, 0, 0, slide.size)
    assert (image[:10] == (200, 0, 0)).all()
    assert (image[10:] == 255).all()
    palette = Image.fromarray(rgba[..., :3]).convert("P", palette=Image.Palette.ADAPTIVE)
    palette.save(tmp_path / "p.png")
    with open_slide(SlideRef(tmp_path / "p.png")) as slide:
        assert np.array_equal(slide.read_level(0, 0, 0, slide.size), np.asarray(palette.convert("RGB")))


def test_an_ome_tiff_says_its_pixel_size_in_xml(tmp_path, rgb):
    options = {"axes": "YXS", "PhysicalSizeX": 0.346, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 346.0}
    path = tmp_path / "scan.ome.tif"
    tifffile.imwrite(path, rgb, ome=True, photometric="rgb", metadata=options | {"PhysicalSizeYUnit": "nm"})
    with open_slide(SlideRef(path)) as slide:
        assert slide.name == "scan"
        assert slide.mpp.origin == "ome-xml"
        assert (slide.mpp.x, slide.mpp.y) == pytest.approx((0.346, 0.346))
        assert np.array_equal(slide.read_level(0, 0, 0, slide.size), rgb)


def _expect_refusal(path, pattern):
    with pytest.raises(SlideError, match=pattern) as caught, open_slide(SlideRef(path)):
        pass
    assert str(path) in caught.value.message


def test_what_is_no_slide_is_refused_by_name(tmp_path):
    _expect_refusal(tmp_path / "missing.svs", "no such file")
    _expect_refusal(tmp_path, "a folder")
    (tmp_path / "empty.svs").touch()
    _expect_refusal(tmp_path / "empty.svs", "empty")
    (tmp_path / "notes.svs").write_text("not a slide at all " * 100)
    _expect_refusal(tmp_path / "notes.svs", "another kind")


@pytest.mark.parametrize(
    ("array", "pattern"),
    [
        (np.zeros((40, 40), np.uint16), "uint16"),
        (np.zeros((40, 40, 3), np.uint16), "uint16"),
        (np.zeros((40, 40), np.uint8), "1 channel"),
        (np.zeros((40, 40, 3), np.float32), "float32"),
    ],
)
def test_tiffs_that_are_not_8_bit_rgb_are_refused_by_name(tmp_path, array, pattern):
    photometric = "rgb" if array.ndim == 3 else "minisblack"
    tifffile.imwrite(tmp_path / "a.tif", array, photometric=photometric)
    _expect_refusal(tmp_path / "a.tif", pattern)


@pytest.mark.parametrize("mode", ["L", "CMYK", "1", "I;16"])
def test_images_that_are_not_rgb_are_refused_by_name(tmp_path, mode):
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.new(mode, (30, 30)).save(path)
    _expect_refusal(path, "8-bit RGB")


def test_absurd_sizes_are_refused_before_decoding(tmp_path, monkeypatch, rgb):
    """A PNG of 2 × 10^9 px in 100 bytes: only its header is read."""
    header = struct.pack(">IIBBBBB", 60_000, 40_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + b"\0\0\0\0IDAT" + b"\0" * 40)
    _expect_refusal(tmp_path / "bomb.png", "megapixels")
    monkeypatch.setattr(image_source, "MAX_IMAGE_MEGAPIXELS", 0.1)
    tifffile.imwrite(tmp_path / "large.tif", rgb, photometric="rgb")
    _expect_refusal(tmp_path / "large.tif", "megapixels")


@pytest.mark.parametrize("keep", [0.3, 0.7, 0.95])
@pytest.mark.parametrize("levels", [(1,), (1, 2)])
def test_a_truncated_slide_is_an_error_that_names_the_file(tmp_path, rgb, keep, levels):
    path = write_tiled_tiff(tmp_path / "cut.tif", rgb, 0.25, levels=levels)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(SlideError, match=r"cut\.tif"), open_slide(SlideRef(path)) as slide:
        slide.read_level(0, 0, 0, slide.size)


def test_after_a_read_error_other_regions_can_still_be_read(tmp_path, rgb):
    path = write_tiled_tiff(tmp_path / "whole.tif", rgb, 0.25)
    with tifffile.TiffFile(path) as file:
        offset, count = file.pages.first.dataoffsets[-1], file.pages.first.databytecounts[-1]
    data = bytearray(path.read_bytes())
    data[offset : offset + count] = b"\xff" * count
    path.write_bytes(data)
    with open_slide(SlideRef(path)) as slide:
        assert np.array_equal(slide.read_level(0, 0, 0, Size(200, 200)), rgb[:200, :200])
        with pytest.raises(SlideError, match=r"region x=520 y=520"):
            slide.read_level(0, 520, 520, Size(10, 10))
        assert np.array_equal(slide.read_level(0, 0, 0, Size(200, 200)), rgb[:200, :200])


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_a_truncated_image_is_an_error_and_never_grey_or_black(tmp_path, rgb, suffix):
    path = tmp_path / f"a{suffix}"
    Image.fromarray(rgb).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])
    with pytest.raises(SlideError, match=str(path)), open_slide(SlideRef(path)) as slide:
        slide.read_level(0, 0, 0, slide.size)


def test_a_missing_codec_is_named_and_not_called_damage(tmp_path, rgb, monkeypatch):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, rgb, photometric="rgb", compression="lzw")

    def no_codec(self, *args, **kwargs):
        raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")

    monkeypatch.setattr(tifffile.TiffPage, "asarray", no_codec)
    with pytest.raises(SlideError, match="imagecodecs") as caught, open_slide(SlideRef(path)) as slide:
        slide.read_level(0, 0, 0, slide.size)
    assert "pip install imagecodecs" in caught.value.hint


def test_a_striped_tiff_that_lost_its_last_strips_is_an_error(tmp_path, rgb):
    """tifffile fills missing strips with zeros, which would be read as black tissue."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, rgb, photometric="rgb", rowsperstrip=64, compression="deflate")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(SlideError, match=str(path)), open_slide(SlideRef(path)) as slide:
        slide.read_level(0, 0, 0, slide.size)


def test_bounds_are_the_scanned_part_of_the_uncropped_level_0(rgb):
    slide = memory_slide(rgb, 0.5, Box(100, 60, 400, 300))
    assert slide.size == Size(610, 530)
    assert slide.bounds == Box(100, 60, 400, 300)
    overview = slide.overview(mpp=2.0)
    assert overview.image.shape == (75, 100, 3)
    assert overview.px0_from_ov.apply([[0, 0], [100, 75]]).tolist() == [[100, 60], [500, 360]]
    # coordinates stay those of the uncropped level, whatever the bounds
    assert np.array_equal(slide.read_level(0, 100, 60, Size(5, 5)), rgb[60:65, 100:105])


@pytest.mark.parametrize("bounds", [Box(-50, -50, 9000, 9000), Box(5000, 5000, 10, 10)])
def test_bounds_beyond_the_slide_are_cut_or_ignored(rgb, bounds):
    assert memory_slide(rgb, 0.5, bounds).bounds == Box(0, 0, 610, 530)


def test_an_overview_is_never_finer_than_the_slide_and_keeps_its_place(rgb):
    slide = memory_slide(rgb, (0.5, 0.25))
    fine = slide.overview(mpp=0.1)
    assert fine.px0_from_ov.apply([[fine.image.shape[1], fine.image.shape[0]]])[0].tolist() == [610, 530]
    assert fine.image.shape[:2] == (265, 610)
    small = slide.overview(max_px=61)
    assert small.image.shape == (53, 61, 3)
    with pytest.raises(ValueError, match="mpp or max_px"):
        slide.overview()


def test_levels_that_were_halved_keep_their_scale(rgb):
    """4443 px over 2221 is 2 and not 2.0005: at the far end that is one pixel."""
    levels = [np.zeros((3567, 4443, 3), np.uint8), np.zeros((1783, 2221, 3), np.uint8)]
    assert memory_slide(levels).level_scales[1] == (2.0, 2.0)


def test_a_level_that_does_not_fit_level_0_is_not_used_and_told():
    """Its two axes give 3.64 and 3.75: positions on it would be wrong, in silence."""
    levels = [np.zeros((300, 400, 3), np.uint8), np.zeros((80, 110, 3), np.uint8), np.zeros((75, 100, 3), np.uint8)]
    slide = memory_slide(levels)
    assert slide.level_scales == ((1.0, 1.0), (4.0, 4.0))
    assert slide.read_patch(1, 0, 0, Size(100, 75)).image.shape == (75, 100, 3)
    assert any("level 1 of 110 × 80 px does not fit level 0 of 400 × 300 px" in w for w in slide.warnings)


def test_a_reference_travels_between_processes(tmp_path):
    ref = SlideRef(tmp_path / "a.svs", (0.25, 0.25), "a")
    assert pickle.loads(pickle.dumps(ref)) == ref


def test_many_file_slides_hash_more_than_the_named_file(tmp_path, rgb):
    path = write_tiled_tiff(tmp_path / "a.tif", rgb, 0.25)

    class Many(MemorySource):
        def __init__(self, quick: str) -> None:
            super().__init__([rgb])
            self._quick = quick

        def quickhash(self) -> str:
            return self._quick

    hashes = {Slide(SlideRef(path), Many(q)).content_hash() for q in "ab"}
    assert len(hashes) == 2
    assert len(hashes.pop()) == 64


def test_an_opened_slide_closes_its_file(tmp_path, rgb):
    path = write_tiled_tiff(tmp_path / "a.tif", rgb, 0.25)
    with open_slide(SlideRef(path)) as slide:
        handle = slide._source._slow_source._handle
    with pytest.raises(Exception, match=r"closed|NULL|argument"):
        handle.read_region((0, 0), 0, (1, 1))


@pytest.mark.parametrize("mode", ["openslide", "image"])
def test_colours_survive_jpeg_tiles(tmp_path, mode):
    y, x = np.mgrid[:530, :610]
    smooth = np.stack([x * 255 // 610, y * 255 // 530, 255 - x * 255 // 610], axis=-1).astype(np.uint8)
    path = write_tiled_tiff(tmp_path / "a.tif", smooth, 0.25, compression="jpeg")
    description = describe_tiff(path)
    image = image_source.open_page(description, description.slide_page)
    opened = open_slide(SlideRef(path)) if mode == "openslide" else Slide(SlideRef(path), image)
    with opened as slide:
        image = read_window(slide, Box(0, 0, 610, 530), Size(610, 530))
        difference = np.abs(image.astype(int) - smooth)
        assert difference.mean() < 1.5
        assert difference[:-8, :-8].max() <= 6  # the last blocks ring against their padding


def test_half_transparent_pixels_are_blended_with_white():
    rgba = np.zeros((2, 3, 4), np.uint8)
    rgba[0] = (100, 50, 0, 255)
    rgba[1, 0] = (100, 50, 0, 128)
    image = _on_white(rgba)
    assert image[0].tolist() == [[100, 50, 0]] * 3
    assert image[1].tolist() == [[177, 152, 127], [255, 255, 255], [255, 255, 255]]
    rgba[..., 3] = 255
    assert np.array_equal(_on_white(rgba), rgba[..., :3])
