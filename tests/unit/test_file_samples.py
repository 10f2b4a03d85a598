"""Files whose directory and pixels tell different things, or which leave out what a number needs to mean something."""

from __future__ import annotations

import struct

import cv2
import numpy as np
import pytest
import tifffile

from virtual_stain.errors import SlideError
from virtual_stain.slides.slide import SlideRef, open_slide

TILED = {"tile": (64, 64)}


@pytest.fixture
def rgb():
    """uint8[256, 320, 3], smooth."""
    y, x = np.mgrid[:256, :320]
    return np.stack([255 - x // 2, 120 + y // 3, 255 - (x + y) // 4], axis=-1).astype(np.uint8)


def write(path, image, *, photometric="rgb", compression="deflate", **options):
    resolution = {"resolution": (1e4 / 0.46,) * 2, "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(
        path, image, photometric=photometric, metadata=None, compression=compression, **resolution, **options
    )
    return path


def level_0(path):
    with open_slide(SlideRef(path)) as slide:
        return slide.read_level(0, 0, 0, slide.size)


def refusal(path):
    with pytest.raises(SlideError) as caught, open_slide(SlideRef(path)):
        pass
    return str(caught.value)


@pytest.mark.parametrize("layout", [{}, TILED], ids=["strips", "tiles"])
@pytest.mark.parametrize(("stream", "called"), [("ycbcr", 2), ("rgb", 6)])
def test_jpeg_tiles_that_the_directory_misnames_keep_their_colours(tmp_path, rgb, layout, stream, called):
    """Tiles read through libtiff were off by 42 and 55 levels on average, strips of the same file were right."""
    options = {"compression": "jpeg", "subsampling": (1, 1), "compressionargs": {"level": 95}}
    if stream == "rgb":
        options["compressionargs"]["outcolorspace"] = "rgb"
    path = write(tmp_path / "a.tif", rgb, **options, **layout)
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages[0].tags["PhotometricInterpretation"].overwrite(called)
    assert np.abs(level_0(path).astype(int) - rgb).mean() < 3
    with open_slide(SlideRef(path)) as slide:
        assert any("the tiles are right" in note for note in slide.notes)


def test_a_scanners_file_whose_tiles_are_misnamed_is_refused(tmp_path, rgb):
    text = "Aperio Image Library v12.0.5 \r\n320x256 (64x64) JPEG/RGB Q=70|AppMag = 20|MPP = 0.46"
    path = write(tmp_path / "a.svs", rgb, compression="jpeg", description=text, **TILED)
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages[0].tags["PhotometricInterpretation"].overwrite(2)
    assert "say YCBCR" in refusal(path)


@pytest.mark.parametrize("options", [{}, {"compression": "jpeg2000", **TILED}], ids=["strips", "jpeg2000"])
def test_ycbcr_without_jpeg_is_never_read_as_rgb(tmp_path, rgb, options):
    samples = cv2.cvtColor(rgb, cv2.COLOR_RGB2YCrCb)[..., [0, 2, 1]]
    path = write(tmp_path / "a.tif", samples, photometric="ycbcr", subsampling=(1, 1), **options)
    assert "YCbCr" in refusal(path)


def test_ycbcr_without_jpeg_in_tiles_is_read_as_the_colours_it_means(tmp_path, rgb):
    samples = cv2.cvtColor(rgb, cv2.COLOR_RGB2YCrCb)[..., [0, 2, 1]]
    path = write(tmp_path / "a.tif", samples, photometric="ycbcr", subsampling=(1, 1), **TILED)
    assert np.abs(level_0(path).astype(int) - rgb).max() <= 2


def without_tag(path, code):
    """The file without one entry of its only directory."""
    data = bytearray(path.read_bytes())
    (at,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, at)
    entries = [data[at + 2 + 12 * i : at + 14 + 12 * i] for i in range(count)]
    kept = [entry for entry in entries if struct.unpack_from("<H", entry)[0] != code]
    assert len(kept) == count - 1
    data[at : at + 2 + 12 * count] = struct.pack("<H", len(kept)) + b"".join(kept) + bytes(12)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("layout", [{}, TILED], ids=["strips", "tiles"])
def test_a_resolution_without_a_unit_was_taken_for_inches_in_silence(tmp_path, rgb, layout):
    """0.46 µm/px became 1.168."""
    path = without_tag(write(tmp_path / "a.tif", rgb, **layout), 296)
    with open_slide(SlideRef(path)) as slide:
        (told,) = (w for w in slide.warnings if "names no unit" in w)
        assert "1.168" in told
        assert "0.46" in told
        assert "--mpp" in told
    with open_slide(SlideRef(path, (0.46, 0.46))) as slide:
        assert not any("names no unit" in w for w in slide.warnings)


@pytest.mark.parametrize("layout", [{}, TILED], ids=["strips", "tiles"])
@pytest.mark.parametrize(
    ("unit", "px_per_unit"),
    [("um", 1), ("micron", 1), ("\\u00B5m", 1), ("nm", 1e-3), ("mm", 1e3), ("inch", 25400), ("pixel", None)],
)
def test_imagej_names_its_unit_in_the_description(tmp_path, rgb, layout, unit, px_per_unit):
    resolution = ((px_per_unit or 1) / 0.46,) * 2
    options = {"imagej": True, "metadata": {"unit": unit}, "resolution": resolution, "resolutionunit": "NONE"}
    tifffile.imwrite(tmp_path / "a.tif", rgb, photometric="rgb", **options, **layout)
    with open_slide(SlideRef(tmp_path / "a.tif")) as slide:
        if px_per_unit is None:
            assert slide.mpp is None
        else:
            assert (slide.mpp.x, slide.mpp.origin) == (pytest.approx(0.46, rel=1e-3), "imagej")


@pytest.mark.parametrize("layout", [{}, TILED], ids=["strips", "tiles"])
def test_a_second_scene_of_nearly_the_same_shape_is_told(tmp_path, rgb, layout):
    options = {"resolution": (1e4 / 0.46,) * 2, "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for image in (rgb, rgb[:200, :260]):
            writer.write(image, photometric="rgb", metadata=None, **options, **layout)
    with open_slide(SlideRef(tmp_path / "a.tif")) as slide:
        assert any("page 1 of 260 × 200 px" in w for w in slide.warnings)
