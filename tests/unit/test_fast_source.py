"""The fast path gives OpenSlide's pixels to the bit, or leaves the region to OpenSlide."""

import contextlib
import threading

import cv2
import numpy as np
import pytest
import tifffile

from tests.fixtures.slides import write_tiled_tiff
from virtual_stain.config.phantom import PhantomSettings
from virtual_stain.errors import SlideError
from virtual_stain.geometry import Size
from virtual_stain.slides import jpeg_tiles
from virtual_stain.slides.fast_source import FastSource
from virtual_stain.slides.jpeg_tiles import NdpiTiles, TiffTiles, exact_levels
from virtual_stain.slides.slide import SlideRef, open_slide
from virtual_stain.slides.tile_cache import TileCache

REGIONS = [(0, 0, 300, 200), (250, 130, 400, 300), (-20, -30, 100, 90), (700, 500, 300, 300), (5000, 10, 20, 20)]


def _picture(width: int = 900, height: int = 700) -> np.ndarray:
    """Saturated colours and sharp edges: chroma smoothing and clipping show every difference between decoders."""
    rng = np.random.default_rng(2)
    blocks = rng.integers(0, 256, (height // 7 + 1, width // 7 + 1, 3), dtype=np.uint8)
    return np.ascontiguousarray(np.repeat(np.repeat(blocks, 7, 0), 7, 1)[:height, :width])


def _write(path, image, *, subsampling=(2, 2), photometric="ycbcr", tile=(240, 256)):
    with tifffile.TiffWriter(path) as writer:
        for factor in (1, 2):
            writer.write(
                np.ascontiguousarray(image[::factor, ::factor]),
                tile=tile,
                photometric=photometric,
                compression="jpeg",
                compressionargs={"level": 80},
                subsampling=subsampling,
                resolution=(20000 / factor, 20000 / factor),
                resolutionunit="CENTIMETER",
                subfiletype=factor - 1,
                metadata=None,
            )
    return path


def _compare(path, levels=(0,)):
    """Every region of both readers, and whether the fast one did all the work."""
    with open_slide(SlideRef(path)) as fast, open_slide(SlideRef(path), fast=False) as slow:
        for level in levels:
            for x, y, width, height in REGIONS:
                a, b = (s.read_patch(level, x, y, Size(width, height)) for s in (fast, slow))
                np.testing.assert_array_equal(a.image, b.image)
                np.testing.assert_array_equal(a.px0_from_patch.matrix, b.px0_from_patch.matrix)
        source = fast._source
        assert isinstance(source, FastSource)
        return source.slow_reads


@pytest.mark.parametrize("subsampling", [(1, 1), (2, 1), (2, 2)])
def test_equals_openslide_on_jpeg_tiffs(tmp_path, subsampling):
    path = _write(tmp_path / "a b ä.tif", _picture(), subsampling=subsampling)
    assert _compare(path, levels=(0, 1)) == 0


def test_equals_openslide_where_the_jpeg_holds_rgb(tmp_path):
    path = write_tiled_tiff(tmp_path / "rgb.tif", _picture(), 0.5, compression="jpeg", levels=(1, 2))
    assert _compare(path, levels=(0, 1)) == 0


def test_other_codecs_are_left_to_openslide(tmp_path):
    path = write_tiled_tiff(tmp_path / "deflate.tif", _picture(), 0.5)
    assert _compare(path) == len(REGIONS)


def test_a_level_that_openslide_interpolates_is_left_to_it(tmp_path):
    path = _write(tmp_path / "odd.tif", _picture(901, 701))
    assert _compare(path, levels=(0,)) == 0
    assert _compare(path, levels=(1,)) == len(REGIONS)


@pytest.fixture(scope="module")
def ndpi(tmp_path_factory):
    from virtual_stain.phantom.cohort import write_cohort

    folder = tmp_path_factory.mktemp("ndpi")
    write_cohort(folder, PhantomSettings(size_mm=0.7, seed=3, format="ndpi"))
    return next((folder / "slides").glob("*_he.ndpi"))


def test_equals_openslide_on_ndpi(ndpi):
    assert _compare(ndpi) == 0


def test_equals_openslide_across_stacked_intervals_of_an_ndpi(ndpi, monkeypatch):
    """Tiles of few intervals, so that regions lie across several, and the last is shorter."""
    monkeypatch.setattr(jpeg_tiles, "_LEAST_STACKED", 8)
    monkeypatch.setattr(jpeg_tiles, "_STACK_BYTES", 1)
    with open_slide(SlideRef(ndpi)) as slide:
        layout = exact_levels(ndpi, slide.level_sizes, ndpi=True)[0].layout
    assert layout.tile.height == 64
    assert _compare(ndpi) == 0


@pytest.mark.parametrize(("width", "expected"), [(16, 128), (2048, 88), (4096, 48), (65535, 32)])
def test_intervals_are_stacked_to_four_mebibytes_in_eights(width, expected):
    assert jpeg_tiles._stacked(Size(width, 8)) == expected


@pytest.mark.parametrize(("subsampling", "restart"), [("422", 10), ("422", 60), ("444", 30)])
def test_equals_openslide_on_ndpi_with_subsampled_colour(tmp_path, subsampling, restart):
    """The same NDPI with its JPEG encoded otherwise: chroma smoothing must stop where OpenSlide's does."""
    path = _with_other_jpeg(tmp_path / "other.ndpi", subsampling, restart)
    assert _compare(path) == 0


def test_an_ndpi_with_subsampled_rows_is_left_to_openslide(tmp_path):
    path = _with_other_jpeg(tmp_path / "420.ndpi", "420", 10)
    assert exact_levels(path, (Size(960, 640),), ndpi=True) == {}


def _with_other_jpeg(path, subsampling, restart):
    from virtual_stain.phantom import tiff_bytes as tb
    from virtual_stain.phantom.ndpi import _entries
    from virtual_stain.phantom.pyramid import Level

    image = _picture(960, 640)
    factors = {"422": 0x211111, "420": 0x221111, "444": 0x111111}[subsampling]
    options = [cv2.IMWRITE_JPEG_QUALITY, 80, cv2.IMWRITE_JPEG_RST_INTERVAL, restart]
    options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factors]
    data = cv2.imencode(".jpg", image, options)[1].tobytes()
    scan = data.index(b"\xff\xda")
    begin = scan + 2 + int.from_bytes(data[scan + 2 : scan + 4], "big")
    starts = [begin] + [i + 2 for i in range(begin, len(data) - 2) if data[i] == 0xFF and 0xD0 <= data[i + 1] <= 0xD7]
    with path.open("wb") as stream:
        tiff = tb.TiffStream(stream, path.name, ndpi=True)
        offset = tiff.data(data)
        tiff.directory(_entries(Level(Size(960, 640), 1), 0.5, offset, len(data), np.array(starts)))
    return path


def test_a_damaged_tile_is_openslides_to_judge(tmp_path):
    path = _write(tmp_path / "damaged.tif", _picture())
    with tifffile.TiffFile(path) as file:
        last = file.pages[0].dataoffsets[-1]
    with path.open("rb+") as stream:
        stream.seek(last)
        stream.write(bytes(300))
    with open_slide(SlideRef(path)) as slide:
        assert slide.read_patch(0, 0, 0, Size(100, 100)).image.shape == (100, 100, 3)
        with pytest.raises(SlideError, match="cannot be read"):
            slide.read_patch(0, 800, 600, Size(90, 90))
        assert slide.read_patch(0, 10, 10, Size(50, 50)).image.shape == (50, 50, 3)
        assert slide._source.slow_reads == 1


def test_a_wrong_restart_marker_is_left_to_openslide(ndpi, tmp_path):
    path = tmp_path / "damaged.ndpi"
    data = bytearray(ndpi.read_bytes())
    with open_slide(SlideRef(ndpi)) as slide:
        tiles = exact_levels(ndpi, slide.level_sizes, ndpi=True)[0]
    assert isinstance(tiles, NdpiTiles)
    data[int(tiles.starts[3]) - 1] = 0x00
    path.write_bytes(data)
    with open_slide(SlideRef(path)) as slide:
        with contextlib.suppress(SlideError):
            slide.read_patch(0, 0, 0, Size(64, 64))
        assert slide._source.slow_reads == 1


def test_threads_share_decoded_tiles_and_agree(tmp_path):
    path = _write(tmp_path / "shared.tif", _picture())
    with open_slide(SlideRef(path)) as slide:
        expected = slide.read_patch(0, 0, 0, Size(900, 700)).image
        decoded = slide._source.cache.decoded
        wrong = []

        def work(index):
            with slide.twin() as own:
                for i in range(20):
                    x = (index * 37 + i * 53) % 500
                    image = own.read_patch(0, x, x // 2, Size(200, 150)).image
                    if not np.array_equal(image, expected[x // 2 : x // 2 + 150, x : x + 200]):
                        wrong.append((index, i))

        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong
        assert decoded == slide._source.cache.decoded == 12  # 4 × 3 tiles, each once


def test_a_twin_outlives_the_slide_it_came_from(tmp_path):
    path = _write(tmp_path / "twin.tif", _picture())
    with open_slide(SlideRef(path)) as slide:
        twin = slide.twin()
    assert twin.read_patch(0, 0, 0, Size(30, 30)).image.shape == (30, 30, 3)
    assert twin.content_hash() == open_slide(SlideRef(path)).content_hash()
    twin.close()


def test_the_cache_is_bounded_and_keeps_what_was_used_last():
    cache = TileCache(max_bytes=3 * 300)
    tile = np.zeros((10, 10, 3), np.uint8)
    for key in (0, 1, 2, 0, 3, 4):
        cache.get(key, tile.copy)
    assert cache.bytes_held == 900
    decoded = cache.decoded
    cache.get(0, tile.copy)
    assert cache.decoded == decoded
    cache.get(1, tile.copy)
    assert cache.decoded == decoded + 1


def test_a_tile_that_another_thread_decodes_is_left_for_later():
    """Threads at neighbouring windows would else wait for each other at every tile they share."""
    cache = TileCache()
    begun, go_on = threading.Event(), threading.Event()
    tile = np.ones((1, 1, 3), np.uint8)

    def slowly():
        begun.set()
        assert go_on.wait(10)
        return tile

    thread = threading.Thread(target=cache.get, args=("a", slowly))
    thread.start()
    assert begun.wait(10)
    assert cache.get_unless_busy("a", tile.copy) is None
    assert cache.get_unless_busy("b", tile.copy) is not None
    go_on.set()
    assert cache.get("a", lambda: pytest.fail("decoded twice")) is tile
    thread.join()
    assert cache.get_unless_busy("a", tile.copy) is tile


def test_a_failed_tile_is_not_kept():
    cache = TileCache()

    def fail():
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        cache.get("a", fail)
    assert cache.get("a", lambda: np.ones((1, 1, 3), np.uint8)).sum() == 3


def test_two_directories_of_one_size_are_not_told_apart(tmp_path):
    path = tmp_path / "twice.tif"
    with tifffile.TiffWriter(path) as writer:
        for _ in range(2):
            writer.write(_picture(), tile=(256, 256), photometric="ycbcr", compression="jpeg", subsampling=(2, 2))
    assert exact_levels(path, (Size(900, 700),), ndpi=False) == {}
    assert exact_levels(path.with_name("none.tif"), (Size(900, 700),), ndpi=False) == {}


def test_levels_are_described_as_the_file_cuts_them(tmp_path):
    tiles = exact_levels(_write(tmp_path / "a.tif", _picture()), (Size(900, 700), Size(450, 350)), ndpi=False)
    assert sorted(tiles) == [0, 1]
    assert isinstance(tiles[0], TiffTiles)
    assert (tiles[0].layout.columns, tiles[0].layout.rows, tiles[0].layout.tile) == (4, 3, Size(256, 240))
