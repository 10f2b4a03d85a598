"""One look at a file before any reader is chosen: what its pages and samples mean, and what it says of the pixel size.

Every file here gave a wrong number in silence to some slide tool.
"""

from __future__ import annotations

import io
import time

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.fixtures.slides import beyond_4_gb
from virtual_stain.errors import SlideError
from virtual_stain.geometry import Size
from virtual_stain.slides import dicom_colour
from virtual_stain.slides.jpeg_colour import YCBCR, declared_colour
from virtual_stain.slides.levels import LevelClaim, usable_levels
from virtual_stain.slides.slide import SlideRef, open_slide
from virtual_stain.slides.tiff_description import describe_tiff

TILED = {"tile": (64, 64)}


@pytest.fixture
def rgb():
    """uint8[256, 320, 3], smooth."""
    y, x = np.mgrid[:256, :320]
    return np.stack([255 - x // 2, 120 + y // 3, 255 - (x + y) // 4], axis=-1).astype(np.uint8)


def tags(mpp, factor=1):
    return {"resolution": (1e4 / mpp / factor, 1e4 / mpp / factor), "resolutionunit": "CENTIMETER"}


def write(path, image, mpp=0.46, *, photometric="rgb", compression="deflate", **options):
    tifffile.imwrite(
        path, image, photometric=photometric, metadata=None, compression=compression, **tags(mpp), **options
    )
    return path


def level_0(path):
    with open_slide(SlideRef(path)) as slide:
        return slide.read_level(0, 0, 0, slide.size)


def refusal(path):
    with pytest.raises(SlideError) as caught, open_slide(SlideRef(path)):
        pass
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("layout", [{}, TILED], ids=["strips", "tiles"])
@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
def test_grey_is_never_read_as_colour(tmp_path, rgb, layout, photometric):
    """A tiled grey TIFF was read as RGB: 22.9 % positive became 61.1 %."""
    message = refusal(write(tmp_path / "a.tif", rgb[..., 0], photometric=photometric, **layout))
    assert "grey" in message
    assert "1 channel" in message


@pytest.mark.parametrize("layout", [{}, TILED], ids=["strips", "tiles"])
def test_a_palette_is_named(tmp_path, rgb, layout):
    colours = np.tile(np.arange(256, dtype=np.uint16) * 257, (3, 1))
    path = write(tmp_path / "a.tif", rgb[..., 0], photometric="palette", colormap=colours, **layout)
    assert "palette" in refusal(path)


@pytest.mark.parametrize("layout", [{}, TILED], ids=["strips", "tiles"])
def test_12_bits_in_16_are_named_and_no_fluorescence(tmp_path, rgb, layout):
    message = refusal(write(tmp_path / "a.tif", rgb.astype(np.uint16) << 4, **layout))
    assert "12 bits" in message
    assert "fluorescence" not in message


@pytest.mark.parametrize("layout", [{}, TILED], ids=["strips", "tiles"])
@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_fourth_sample_of_no_meaning_is_left_out(tmp_path, rgb, layout, value):
    """It was taken for opacity: an H-score of 60 became 23."""
    image = np.dstack([rgb, np.full(rgb.shape[:2], value, np.uint8)])
    path = write(tmp_path / "a.tif", image, extrasamples=["unspecified"], **layout)
    np.testing.assert_array_equal(level_0(path), rgb)
    with open_slide(SlideRef(path)) as slide:
        assert any("fourth sample" in note for note in slide.notes)


@pytest.mark.parametrize("layout", [{}, TILED], ids=["strips", "tiles"])
@pytest.mark.parametrize("meaning", ["assocalpha", "unassalpha"])
def test_opacity_blends_with_white_whichever_reader_is_taken(tmp_path, rgb, layout, meaning):
    alpha = np.full(rgb.shape[:2], 128, np.uint8)
    colour = (rgb.astype(int) * 128 // 255).astype(np.uint8) if meaning == "assocalpha" else rgb
    path = write(tmp_path / "a.tif", np.dstack([colour, alpha]), extrasamples=[meaning], **layout)
    expected = rgb * (128 / 255) + 127
    np.testing.assert_allclose(level_0(path), expected, atol=3)


@pytest.mark.parametrize("layout", [{}, TILED], ids=["strips", "tiles"])
@pytest.mark.parametrize("compression", ["deflate", "jpeg"])
@pytest.mark.parametrize("orientation", [3, 6])
def test_pixels_that_are_stored_turned_are_refused_with_every_codec(tmp_path, rgb, layout, compression, orientation):
    """One codec ignored the tag, another turned every tile by itself."""
    extra = [(274, "H", 1, orientation, True)]
    path = write(tmp_path / "a.tif", rgb, compression=compression, extratags=extra, **layout)
    assert f"orientation {orientation}" in refusal(path).lower()


def test_the_size_of_an_ome_tiff_is_read_when_it_is_tiled(tmp_path, rgb):
    path = tmp_path / "a.ome.tif"
    size = {"axes": "YXS", "PhysicalSizeX": 0.46, "PhysicalSizeY": 0.46}
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        writer.write(rgb, subifds=1, metadata=size, photometric="rgb", **TILED)
        writer.write(rgb[::2, ::2], subfiletype=1, photometric="rgb", **TILED)
    with open_slide(SlideRef(path)) as slide:
        assert (slide.mpp.x, slide.mpp.y, slide.mpp.origin) == (0.46, 0.46, "ome-xml")


@pytest.mark.parametrize("layout", [{}, TILED], ids=["strips", "tiles"])
def test_ome_xml_and_tags_that_disagree_are_both_named(tmp_path, rgb, layout):
    """0.23 was taken for 0.46: 592 cells instead of 2,595."""
    path = tmp_path / "a.ome.tif"
    size = {"axes": "YXS", "PhysicalSizeX": 0.46, "PhysicalSizeY": 0.46}
    tifffile.imwrite(path, rgb, ome=True, photometric="rgb", metadata=size, **tags(0.23), **layout)
    with open_slide(SlideRef(path)) as slide:
        assert slide.mpp.x == 0.46
        assert any("0.46" in w and "0.23" in w for w in slide.warnings)


@pytest.mark.parametrize("layout", [{}, TILED], ids=["strips", "tiles"])
@pytest.mark.parametrize("named", [{"subfiletype": 1}, {"description": "Scanner 1\nlabel 80x64"}])
def test_a_thumbnail_or_label_that_stands_first_is_not_the_slide(tmp_path, rgb, layout, named):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(rgb[::4, ::4], photometric="rgb", metadata=None, **tags(1.84), **layout, **named)
        writer.write(rgb, photometric="rgb", metadata=None, **tags(0.46), **layout)
    np.testing.assert_array_equal(level_0(path), rgb)
    with open_slide(SlideRef(path)) as slide:
        assert slide.mpp.x == pytest.approx(0.46)
        assert any("page 1 of 320 × 256 px is the slide" in note for note in slide.notes)


def test_a_large_label_beside_a_small_slide_is_still_a_label(tmp_path, rgb):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(rgb[:64, :64], photometric="rgb", metadata=None, **TILED)
        writer.write(rgb, photometric="rgb", metadata=None, description="Scanner 1\nmacro 320x256")
    assert describe_tiff(path).slide_page.index == 0


@pytest.mark.parametrize("compression", ["jpeg", "deflate"])
def test_tiles_that_were_never_written_are_counted_and_white(tmp_path, rgb, compression):
    path = write(tmp_path / "a.tif", rgb, compression=compression, **TILED)
    without_tiles(path, [7, 8])
    with open_slide(SlideRef(path)) as slide:
        assert any("2 of 20 tiles" in w and "missing tiles" in w for w in slide.warnings)
        assert (slide.read_level(0, 128, 64, Size(128, 64)) == 255).all()
        assert slide.missing[0].table.count == 2


def test_strips_that_were_never_written_are_white_and_not_black(tmp_path, rgb):
    path = write(tmp_path / "a.tif", rgb, rowsperstrip=64)
    with tifffile.TiffFile(path, mode="r+b") as file:
        found = file.pages[0].tags
        for name in ("StripOffsets", "StripByteCounts"):
            found[name].overwrite([0 if i == 1 else v for i, v in enumerate(found[name].value)])
    image = level_0(path)
    assert (image[64:128] == 255).all()
    np.testing.assert_array_equal(image[128:], rgb[128:])


def without_tiles(path, indices):
    with tifffile.TiffFile(path, mode="r+b") as file:
        found = file.pages[0].tags
        for name in ("TileOffsets", "TileByteCounts"):
            found[name].overwrite([0 if i in indices else v for i, v in enumerate(found[name].value)])


def test_a_resized_slide_has_the_pixel_size_of_its_pixels(tmp_path, rgb):
    """The description keeps the pixel size of the original and tells of the resizing."""
    text = "Aperio Image Library v12.0.5 \r\n640x512 [0,0 640x512] (256x256) -> 320x256 JPEG/RGB Q=70|MPP = 0.46"
    path = tmp_path / "a.svs"
    options = {"photometric": "rgb", "compression": "jpeg", "metadata": None, "tile": (64, 64)}
    tifffile.imwrite(path, rgb, description=text, **options)
    with open_slide(SlideRef(path)) as slide:
        assert slide.mpp.x == pytest.approx(0.92)
        warning = next(w for w in slide.warnings if "resized" in w)
        assert "640 × 512" in warning
        assert "320 × 256" in warning
    with open_slide(SlideRef(path, (0.5, 0.5))) as slide:
        assert slide.mpp.x == 0.5


@pytest.mark.parametrize(
    "text",
    [
        "46000x32914 [42673,5576 320x256] (240x240) JPEG/RGB Q=30;Aperio\r\n46920x33014 -> 320x256 x|MPP = 0.46",
        "320x256 (256x256) J2K/KDU Q=70|MPP = 0.46",
    ],
)
def test_a_part_cut_out_of_a_slide_is_not_resized(tmp_path, rgb, text):
    path = tmp_path / "a.svs"
    options = {"photometric": "rgb", "compression": "jpeg", "metadata": None, "tile": (64, 64)}
    tifffile.imwrite(path, rgb, description=f"Aperio Image Library v11.2.1 \r\n{text}", **options)
    with open_slide(SlideRef(path)) as slide:
        assert slide.mpp.x == 0.46
        assert not any("resized" in w for w in slide.warnings)


def test_a_smaller_export_whose_description_is_the_originals_is_told(tmp_path, rgb):
    """No word of resizing, but the size of the original, and its pixel size."""
    options = {"photometric": "rgb", "compression": "jpeg", "metadata": None, "tile": (64, 64)}
    text = "Aperio Image Library v12.0.5 \r\n640x512 [0,0 640x512] (256x256) JPEG/RGB Q=70|AppMag = 20|MPP = 0.46"
    tifffile.imwrite(tmp_path / "a.svs", rgb, description=text, **options)
    size = {"axes": "YXS", "PhysicalSizeX": 0.46, "PhysicalSizeY": 0.46}
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, rgb, photometric="rgb", ome=True, metadata=size, compression="deflate", tile=(64, 64))
    data = path.read_bytes().replace(b'SizeX="320" SizeY="256"', b'SizeX="640" SizeY="512"')
    path.write_bytes(data)
    for name in ("a.svs", "a.ome.tif"):
        with open_slide(SlideRef(tmp_path / name)) as slide:
            said = [w for w in slide.warnings if "640 × 512" in w and "320 × 256" in w]
            assert len(said) == 1, name
            assert said[0].startswith("pixel size: ")


def test_a_magnification_that_contradicts_the_pixel_size_is_told(tmp_path, rgb):
    options = {"photometric": "rgb", "compression": "jpeg", "metadata": None, "tile": (64, 64)}
    for power, contradicts in ((20, False), (40, True)):
        text = f"Aperio Image Library v12.0.5 \r\n320x256 (256x256) JPEG/RGB Q=70|AppMag = {power}|MPP = 0.46"
        tifffile.imwrite(tmp_path / "a.svs", rgb, description=text, **options)
        with open_slide(SlideRef(tmp_path / "a.svs")) as slide:
            assert any("magnification of 40" in w for w in slide.warnings) == contradicts


@pytest.mark.parametrize("layout", [{}, TILED], ids=["strips", "tiles"])
@pytest.mark.parametrize(
    ("unit", "value"),
    [("nm", 460.0), ("mm", 4.6e-4), ("cm", 4.6e-5), ("in", 0.46 / 25400), ("thou", 0.46 / 25.4), ("Å", 4600.0)],
)
def test_ome_xml_may_use_any_unit_of_length(tmp_path, rgb, layout, unit, value):
    size = {"axes": "YXS", "PhysicalSizeX": value, "PhysicalSizeY": value}
    size |= {"PhysicalSizeXUnit": unit, "PhysicalSizeYUnit": unit}
    tifffile.imwrite(tmp_path / "a.tif", rgb, photometric="rgb", ome=True, metadata=size, **layout)
    with open_slide(SlideRef(tmp_path / "a.tif")) as slide:
        assert slide.mpp.x == pytest.approx(0.46)
        assert slide.mpp.y == pytest.approx(0.46)


@pytest.mark.parametrize("layout", [{}, TILED], ids=["strips", "tiles"])
def test_a_size_in_pixels_is_no_size_and_told(tmp_path, rgb, layout):
    size = {"axes": "YXS", "PhysicalSizeX": 0.46, "PhysicalSizeY": 0.46}
    size |= {"PhysicalSizeXUnit": "pixel", "PhysicalSizeYUnit": "pixel"}
    tifffile.imwrite(tmp_path / "a.tif", rgb, photometric="rgb", ome=True, metadata=size, **layout)
    with open_slide(SlideRef(tmp_path / "a.tif")) as slide:
        assert slide.mpp is None
        assert any("'pixel'" in note for note in slide.notes)


@pytest.mark.parametrize("layout", [{}, TILED], ids=["strips", "tiles"])
@pytest.mark.parametrize(("unit", "per_um"), [(2, 25400.0), (3, 1e4), (4, 1e3), (5, 1.0)])
def test_resolution_tags_in_every_unit_that_writers_use(tmp_path, rgb, layout, unit, per_um):
    options = {"photometric": "rgb", "metadata": None, "resolution": (per_um / 0.46,) * 2, "resolutionunit": unit}
    tifffile.imwrite(tmp_path / "a.tif", rgb, **options, **layout)
    with open_slide(SlideRef(tmp_path / "a.tif")) as slide:
        assert slide.mpp.x == pytest.approx(0.46, rel=1e-3)


@pytest.mark.parametrize("layout", [{}, TILED], ids=["strips", "tiles"])
def test_a_second_scene_is_told(tmp_path, rgb, layout):
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for image in (rgb, rgb[:120, :300]):
            writer.write(image, photometric="rgb", metadata=None, **tags(0.46), **layout)
    with open_slide(SlideRef(tmp_path / "a.tif")) as slide:
        assert slide.size == Size(320, 256)
        assert any("page 1 of 300 × 120 px" in w for w in slide.warnings)


@pytest.mark.parametrize("codec", ["jpeg2000", "webp"])
def test_tiles_of_a_codec_that_openslide_lacks_are_read(tmp_path, rgb, codec):
    path = write(tmp_path / "a.tif", rgb, compression=codec, **TILED)
    assert np.abs(level_0(path).astype(int) - rgb).max() <= 8


@pytest.mark.parametrize("layout", [{}, TILED], ids=["strips", "tiles"])
@pytest.mark.parametrize("compression", ["jpeg", "deflate"])
def test_pixels_beyond_4_gb_are_those_of_the_file_before(tmp_path, rgb, layout, compression):
    """A sparse file: its places need more than 32 bits."""
    with tifffile.TiffWriter(tmp_path / "a.tif", bigtiff=True) as writer:
        for factor in (1, 2):
            image = cv2.resize(rgb, (320 // factor, 256 // factor), interpolation=cv2.INTER_AREA)
            options = {"photometric": "rgb", "compression": compression, "metadata": None, **tags(0.46, factor)}
            writer.write(image, subfiletype=int(factor > 1), **options, **layout)
    large = beyond_4_gb(tmp_path / "a.tif", tmp_path / "b.tif")
    assert large.stat().st_size > 2**32
    np.testing.assert_array_equal(level_0(large), level_0(tmp_path / "a.tif"))
    with open_slide(SlideRef(large)) as slide:
        assert slide.mpp.x == pytest.approx(0.46)
        assert slide.level_count == (2 if layout else 1)
        assert not any("never written" in w for w in slide.warnings)


@pytest.mark.parametrize("bits", [12, 16])
def test_a_png_of_16_bits_is_refused(tmp_path, rgb, bits):
    """Its lower bits were cut off: 12 bits in 16 became a picture sixteen times too dark."""
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), rgb[..., ::-1].astype(np.uint16) << (bits - 8))
    assert "16 bits" in refusal(path)


@pytest.mark.parametrize("orientation", [1, 2, 3, 6])
def test_a_jpeg_that_viewers_turn_is_read_as_stored_and_told(tmp_path, rgb, orientation):
    image = Image.fromarray(rgb)
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(tmp_path / "a.jpg", exif=exif, quality=95)
    with open_slide(SlideRef(tmp_path / "a.jpg")) as slide:
        assert slide.size == Size(320, 256)
        assert any(f"orientation {orientation}" in w for w in slide.warnings) == (orientation != 1)


def test_a_palette_png_is_told(tmp_path, rgb):
    Image.fromarray(rgb).quantize(64).save(tmp_path / "a.png")
    with open_slide(SlideRef(tmp_path / "a.png")) as slide:
        assert any("palette" in w for w in slide.warnings)


@pytest.mark.parametrize(("mpp", "said"), [(25.25, False), (250 / 320 * 100, True), (90.0, False)])
def test_a_scan_larger_than_a_slide_is_told(tmp_path, rgb, mpp, said):
    """320 px of 25.25 µm are 8 mm; of 78 µm they are 25 mm."""
    big = cv2.resize(rgb, (1280, 1024)) if said else rgb
    with open_slide(SlideRef(write(tmp_path / "a.tif", big, mpp, **TILED))) as slide:
        told = [w for w in slide.warnings if "implausible" in w]
        assert bool(told) == said
        assert all("--mpp" in w and "µm/px" in w for w in told)


def test_the_look_at_a_file_costs_little(tmp_path):
    """Of a scan with 20,000 tiles it takes about 5 ms of processor time."""
    path = tmp_path / "a.tif"
    tile = np.zeros((16, 16, 3), np.uint8)
    side = 141 * 16
    tifffile.imwrite(
        path, (tile for _ in range(141 * 141)), shape=(side, side, 3), dtype=np.uint8, tile=(16, 16), photometric="rgb"
    )
    describe_tiff(path)
    costs = []
    for _ in range(5):
        start = time.process_time()
        description = describe_tiff(path)
        costs.append(time.process_time() - start)
    assert description.slide_page.table.missing.size == 141 * 141
    assert min(costs) < 0.15  # three times what is aimed at: other work runs beside the tests


# ---- levels


def test_a_padded_level_is_scaled_by_its_own_statement():
    """A fourth of 6080 × 5696 px, filled to whole tiles of 512 px: tissue of 3.64 mm² read as 1.88."""
    base = LevelClaim(Size(6080, 5696), Size(512, 512), (0.46, 0.46))
    pyramid = usable_levels((base, LevelClaim(Size(1536, 1536), Size(512, 512), (1.84, 1.84))))
    assert pyramid.levels[1].scale == (4.0, 4.0)
    assert pyramid.levels[1].size == Size(1520, 1424)
    assert "padded" in pyramid.notes[0]


def test_a_padded_level_that_states_nothing_is_not_used():
    base = LevelClaim(Size(6080, 5696), Size(512, 512))
    pyramid = usable_levels((base, LevelClaim(Size(1536, 1536), Size(512, 512))))
    assert [level.index for level in pyramid.levels] == [0]
    assert "level 1 of 1536 × 1536 px" in pyramid.warnings[0]


def test_a_padded_square_level_is_not_taken_for_a_third():
    """4608 / 1536 is 3, but a fourth of 4608 filled to tiles of 512 px is 1536 px as well."""
    base = LevelClaim(Size(4608, 4608), Size(512, 512), (0.25, 0.25))
    pyramid = usable_levels((base, LevelClaim(Size(1536, 1536), Size(512, 512), (1.0, 1.0))))
    assert pyramid.levels[1].scale == (4.0, 4.0)


@pytest.mark.parametrize("stated", [None, (0.46, 0.46), (0.92, 0.92), (0.9206, 0.9206)])
def test_statements_that_say_nothing_of_the_level_change_nothing(stated):
    """Writers repeat level 0's resolution on every level, or round."""
    base = LevelClaim(Size(4443, 3567), Size(256, 256), (0.46, 0.46))
    pyramid = usable_levels((base, LevelClaim(Size(2221, 1783), Size(256, 256), stated)))
    assert pyramid.levels[1].scale == (2.0, 2.0)
    assert not pyramid.notes
    assert not pyramid.warnings


def test_positions_on_a_padded_level_are_those_of_level_0(tmp_path):
    image = np.full((700, 900, 3), 240, np.uint8)
    cv2.circle(image, (700, 500), 60, (180, 90, 150), -1)
    small = np.full((256, 256, 3), 255, np.uint8)
    small[:175, :225] = cv2.resize(image, (225, 175), interpolation=cv2.INTER_AREA)
    path = tmp_path / "a.tif"
    options = {"photometric": "rgb", "metadata": None, "compression": "deflate", "tile": (128, 128)}
    with tifffile.TiffWriter(path) as writer:
        writer.write(image, **tags(0.5), **options)
        writer.write(small, subfiletype=1, **tags(0.5, 4), **options)
    with open_slide(SlideRef(path)) as slide:
        seen = slide.overview(mpp=2.0)
    y, x = np.argwhere(seen.image[..., 1] < 150).mean(axis=0) + 0.5
    assert seen.px0_from_ov.apply([[x, y]])[0] == pytest.approx([700.5, 500.5], abs=2)


# ---- DICOM


@pytest.mark.parametrize(
    ("options", "expected"),
    [({}, True), ({"subsampling": 0}, True), ({"keep_rgb": True}, False), ({"subsampling": 2}, True)],
)
def test_frames_say_themselves_whether_they_are_ycbcr(rgb, options, expected):
    """A converter copied YCbCr frames and called them RGB: the tissue of a slide grew from 0.70 to 1.05 mm²."""
    stream = io.BytesIO()
    Image.fromarray(rgb).save(stream, "JPEG", **options)
    assert (declared_colour(stream.getvalue()) == YCBCR) is expected


def test_converted_colours_are_those_that_a_jpeg_reader_gives(rgb):
    stream = io.BytesIO()
    Image.fromarray(rgb).save(stream, "JPEG", quality=95, subsampling=0)
    with Image.open(stream) as image:
        expected = np.array(image)
    with Image.open(stream) as image:
        image.draft("YCbCr", image.size)
        raw = np.array(image)
    assert np.abs(dicom_colour.from_ycbcr(raw).astype(int) - expected).max() <= 2


def test_only_jpeg_frames_that_are_called_rgb_are_looked_at(tmp_path):
    path = tmp_path / "a.dcm"
    path.write_bytes(b"x")
    for photometric, syntax in (("YBR_FULL_422", "1.2.840.10008.1.2.4.50"), ("RGB", "1.2.840.10008.1.2.1")):
        said = {"dicom.PhotometricInterpretation": photometric, "dicom.TransferSyntaxUID": syntax}
        assert dicom_colour.ycbcr_called_rgb(path, said) is None
