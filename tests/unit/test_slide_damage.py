"""Compressed tiles that are broken are no tissue: whoever reads them is told."""

from __future__ import annotations

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.fixtures.damage import break_tiles
from tests.fixtures.models import TinyPredictor, tissue_slide
from tests.fixtures.phantoms import tiny_pair
from tests.fixtures.slides import write_tiled_tiff
from virtual_stain.cli.main import _run
from virtual_stain.config.tissue import TissueSettings
from virtual_stain.errors import SlideError
from virtual_stain.geometry import Size
from virtual_stain.scoring.inputs import collect_inputs
from virtual_stain.slides.damage import jpeg2000_problem, jpeg_problem
from virtual_stain.slides.slide import SlideRef, open_slide
from virtual_stain.slides.tissue import find_tissue
from virtual_stain.workflows.score_many import score_slides
from virtual_stain.workflows.score_slides import ScoreOptions

SIZE = 1024


def picture(size: int = SIZE) -> np.ndarray:
    """uint8[size, size, 3]: glass with a textured disc of tissue."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size]
    inside = ((x - size / 2) ** 2 + (y - size / 2) ** 2) < (size * 0.4) ** 2
    noise = rng.normal(0, 12, (size, size, 3))
    tissue = np.array([190, 110, 170]) + noise
    return np.clip(np.where(inside[..., None], tissue, 242 + noise / 12), 0, 255).astype(np.uint8)


def jpeg_slide(path, levels=(1, 4)):
    return write_tiled_tiff(path, picture(), 0.5, levels=levels, compression="jpeg")


def aperio_jpeg2000(path):
    text = f"Aperio Image Library v12\r\n{SIZE}x{SIZE} (256x256) J2K/YUV16 Q=70|AppMag = 20|MPP = 0.5"
    with tifffile.TiffWriter(path) as writer:
        writer.write(
            picture(), tile=(256, 256), photometric="rgb", compression=33005, compressionargs={"level": 40},
            description=text, metadata=None,
        )  # fmt: skip
    return path


def whole(slide):
    return slide.read_patch(0, 0, 0, Size(SIZE, SIZE)).image


@pytest.mark.parametrize("fast", [True, False])
def test_a_sound_slide_is_read_as_before(tmp_path, fast):
    path = jpeg_slide(tmp_path / "a.tiff")
    with open_slide(SlideRef(path), fast=fast) as slide:
        assert np.abs(whole(slide).astype(int) - picture()).mean() < 5


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("how", ["zero", "noise"])
def test_broken_jpeg_tiles_are_not_taken_for_tissue(tmp_path, how, fast):
    path = jpeg_slide(tmp_path / "a.tiff")
    broken = break_tiles(path, how)
    with open_slide(SlideRef(path), fast=fast) as slide:
        for number in broken:
            row, column = divmod(number, 4)
            with pytest.raises(SlideError, match=f"column {column}, row {row} of level 0 is damaged|cannot be read"):
                slide.read_patch(0, column * 256 + 100, row * 256 + 100, Size(8, 8))


def test_only_the_regions_that_touch_a_broken_tile_are_refused(tmp_path):
    path = jpeg_slide(tmp_path / "a.tiff")
    broken = break_tiles(path, "noise", share=0.1)
    with open_slide(SlideRef(path)) as slide:
        for number in range(16):
            row, column = divmod(number, 4)
            place = (0, column * 256, row * 256, Size(256, 256))
            if number in broken:
                with pytest.raises(SlideError, match="cannot be (trusted|read)"):
                    slide.read_patch(*place)
            else:
                slide.read_patch(*place)


@pytest.mark.parametrize("how", ["zero", "noise"])
def test_broken_jpeg2000_tiles_are_not_taken_for_tissue(tmp_path, how):
    path = aperio_jpeg2000(tmp_path / "a.svs")
    with open_slide(SlideRef(path)) as slide:
        assert slide.format == "aperio"
        whole(slide)
    break_tiles(path, how)
    with open_slide(SlideRef(path)) as slide, pytest.raises(SlideError, match="level 0 (is damaged|cannot be read)"):
        whole(slide)


@pytest.mark.parametrize("how", ["zero", "noise"])
def test_broken_tiles_of_a_jpeg_compressed_ome_tiff_are_found(tmp_path, how):
    """Such a file is decoded whole, by another reader."""
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(
        path, picture(), tile=(256, 256), photometric="rgb", compression="jpeg",
        metadata={"axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5},
    )  # fmt: skip
    break_tiles(path, how, share=0.1)
    with open_slide(SlideRef(path)) as slide, pytest.raises(SlideError):
        whole(slide)


def test_a_plain_jpeg_that_is_broken_is_refused(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(picture()).save(path, quality=90)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
    with open_slide(SlideRef(path)) as slide, pytest.raises(SlideError, match="cannot be read"):
        whole(slide)


def test_an_overview_shows_broken_tiles_as_unknown(tmp_path):
    path = jpeg_slide(tmp_path / "a.tiff", levels=(1,))
    with open_slide(SlideRef(path)) as slide:
        before = find_tissue(slide, TissueSettings())
    break_tiles(path, "noise", share=0.1)
    with open_slide(SlideRef(path)) as slide:
        tissue = find_tissue(slide, TissueSettings())
    assert before.mask.sum() > tissue.mask.sum() > 0
    assert any("broken tiles" in text for text in tissue.warnings)


def test_a_slide_of_broken_tiles_is_refused_at_its_overview(tmp_path):
    path = jpeg_slide(tmp_path / "a.tiff", levels=(1,))
    break_tiles(path, "zero")
    with open_slide(SlideRef(path)) as slide, pytest.raises(SlideError, match="16 of 16 compressed tiles"):
        find_tissue(slide, TissueSettings())


def test_what_writers_may_do_is_no_damage():
    sound = imagecodecs.jpeg8_encode(picture(256), level=80)
    assert jpeg_problem(sound) is None
    assert jpeg_problem(sound[:-2]) is None  # without an end marker
    assert jpeg_problem(sound + bytes(1000)) is None  # padding behind the end
    assert jpeg_problem(imagecodecs.jpeg8_encode(np.ascontiguousarray(picture(256)[..., 0]), level=80)) is None


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("colour", [picture(256), np.full((256, 256, 3), 243, np.uint8)], ids=["tissue", "glass"])
def test_any_run_of_noise_in_a_jpeg_2000_is_seen(seed, colour):
    data = imagecodecs.jpeg2k_encode(colour, level=40, codecformat="j2k")
    assert jpeg2000_problem(data) is None
    assert jpeg2000_problem(imagecodecs.jpeg2k_encode(colour, level=0)) is None
    noise = np.random.default_rng(seed).bytes(len(data) - len(data) // 2)
    assert jpeg2000_problem(data[: len(data) // 2] + noise) is not None
    assert jpeg2000_problem(data[: len(data) // 2] + bytes(len(noise))) is not None


@pytest.mark.parametrize("place", [0, 2**40], ids=["none", "beyond the end"])
def test_an_ndpi_without_a_directory_was_a_traceback(tmp_path, place):
    path = tmp_path / "a.ndpi"
    path.write_bytes(b"II*\0" + place.to_bytes(8, "little") + bytes(500))
    with pytest.raises(SlideError), open_slide(SlideRef(path)):
        pass


def score_of(path, out):
    inputs = collect_inputs([path], None, out=out, mpp=None)
    return score_slides(inputs, ScoreOptions(model="x", jobs=2), predictor=TinyPredictor())


def tissue_in_jpeg(path):
    """A slide of some 100 windows, whose pyramid is sound."""
    tissue_slide(path.with_name("plain.tiff"), size=12)
    with tifffile.TiffFile(path.with_name("plain.tiff")) as file:
        image = file.pages[0].asarray()
    return write_tiled_tiff(path, image, 0.3, levels=(1, 4), compression="jpeg", tile=128)


@pytest.mark.parametrize("how", ["zero", "noise"])
def test_score_lists_broken_tiles_and_reads_the_others(tmp_path, how):
    path = tissue_in_jpeg(tmp_path / "a.tiff")
    (sound,) = score_of(path, tmp_path / "sound")
    assert sound.report["tiles"]["failed"] == 0
    break_tiles(path, how, share=0.02)
    (scored,) = score_of(path, tmp_path / "broken")
    failed = scored.report["tiles"]["failed"]
    assert 0 < failed <= 0.2 * (failed + scored.report["tiles"]["scored"])
    assert any(w["code"] == "failed_tiles" for w in scored.report["warnings"])
    assert "read_failed" in (tmp_path / "broken" / "a.tiles.csv").read_text()


@pytest.mark.parametrize("how", ["zero", "noise"])
@pytest.mark.parametrize(
    ("share", "why"),
    [
        (1.0, "of 144 compressed tiles of level 0 are damaged"),
        (0.3, "tiles of tissue could be read; at most 20% may fail"),
    ],
)
def test_score_took_a_slide_of_broken_tiles_for_tissue(tmp_path, how, share, why):
    """The report said `failed: 0`."""
    path = tissue_in_jpeg(tmp_path / "a.tiff")
    break_tiles(path, how, share=share)
    with pytest.raises(SlideError, match=why):
        score_of(path, tmp_path / "out")
    assert not (tmp_path / "out" / "a.report.json").exists()


def test_count_refuses_a_slide_with_broken_tiles(tmp_path, capsys):
    pair = tiny_pair(tmp_path / "phantom", size_mm=0.6, format="tiff")
    assert _run(["count", str(pair.ihc), "--marker", "ki67", "--out", str(tmp_path / "a"), "--jobs", "1", "-q"]) == 0
    break_tiles(pair.ihc, "zero", share=0.3)
    assert _run(["count", str(pair.ihc), "--marker", "ki67", "--out", str(tmp_path / "b"), "--jobs", "1", "-q"]) == 3
    assert "damaged" in capsys.readouterr().err
    assert not (tmp_path / "b" / "summary.json").exists()
