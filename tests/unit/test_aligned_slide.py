"""aligned.ome.tif: the IHC's pixels on the H&E's grid, in levels that QuPath reads."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import openslide
import pytest
import tifffile

from tests.fixtures.registration import noise, toy_transform, write_image
from virtual_stain.errors import InputError
from virtual_stain.slides.slide import SlideRef, open_slide
from virtual_stain.workflows.aligned_slide import write_aligned


def test_what_is_written_is_the_ihc_under_the_he(tmp_path: Path) -> None:
    """A picture that is smooth on the IHC, sampled through the transform by hand, is what stands in the file."""
    transform = toy_transform(30, elastic_px=4.0)
    shape = (570, 580)
    planes = [np.clip(150 + 40 * noise(s, shape, 25), 0, 255) for s in (1, 2, 3)]
    ihc_rgb = np.stack(planes, axis=-1).astype(np.uint8)
    he_path = write_image(tmp_path / "he.png", np.full((420, 1500, 3), 240, np.uint8))
    ihc_path = write_image(tmp_path / "ihc.png", ihc_rgb)
    path = tmp_path / "aligned.ome.tif"
    with open_slide(SlideRef(he_path, (2.0, 2.0))) as he, open_slide(SlideRef(ihc_path, (2.0, 2.0))) as ihc:
        size = write_aligned(he, ihc, transform, path)
    assert (size.width, size.height) == (1500, 420)
    with tifffile.TiffFile(path) as file:
        assert file.is_ome
        assert 'PhysicalSizeX="2.0"' in (file.ome_metadata or "")
        levels = [level.asarray() for level in file.series[0].levels]
    assert [level.shape for level in levels] == [(420, 1500, 3), (210, 750, 3)]
    x, y = np.meshgrid(np.arange(120, 380, 9) + 0.5, np.arange(90, 330, 9) + 0.5)
    there = transform.to_ihc(np.stack([x, y], axis=-1).reshape(-1, 2)).reshape(*x.shape, 2)
    inside = ((there > 4) & (there < [576, 566])).all(axis=-1)
    maps = (there - 0.5).astype(np.float32)
    expected = cv2.remap(ihc_rgb, maps[..., 0], maps[..., 1], cv2.INTER_LINEAR)[inside].astype(int)
    found = levels[0][y.astype(int), x.astype(int)][inside].astype(int)
    assert np.abs(found - expected).mean() < 2.0  # JPEG
    assert np.abs(cv2.resize(levels[0], (750, 210), interpolation=cv2.INTER_AREA).astype(int) - levels[1]).mean() < 3
    assert (levels[0][:, 1200:] > 250).all()  # the IHC was not scanned there
    with openslide.OpenSlide(str(path)) as slide:
        assert slide.dimensions == (1500, 420)


def test_coarser_needs_a_pixel_size(tmp_path: Path) -> None:
    rgb = np.full((200, 300, 3), 230, np.uint8)
    ref = SlideRef(write_image(tmp_path / "a.png", rgb))
    with open_slide(ref) as he, open_slide(ref) as ihc, pytest.raises(InputError, match="pixel size"):
        write_aligned(he, ihc, toy_transform(0), tmp_path / "x.ome.tif", mpp=1.0)
    assert not (tmp_path / "x.ome.tif").exists()
    known = SlideRef(ref.path, (0.5, 0.5))
    with open_slide(known) as he, open_slide(known) as ihc:
        assert write_aligned(he, ihc, toy_transform(0), tmp_path / "y.ome.tif", mpp=1.0).width == 150


def test_a_second_run_wrote_other_bytes(tmp_path: Path) -> None:
    """The OME UUID was a new one every time; now it names the content."""
    rgb = np.clip(150 + 40 * noise(1, (200, 300), 9), 0, 255).astype(np.uint8)
    ihc = write_image(tmp_path / "ihc.png", np.stack([rgb] * 3, axis=-1))
    he = write_image(tmp_path / "he.png", np.full((200, 300, 3), 240, np.uint8))
    written = []
    for name, turn in (("a", 0), ("b", 0), ("c", 3)):
        path = tmp_path / f"{name}.ome.tif"
        with open_slide(SlideRef(he, (0.5, 0.5))) as first, open_slide(SlideRef(ihc, (0.5, 0.5))) as second:
            write_aligned(first, second, toy_transform(turn), path)
        with tifffile.TiffFile(path) as file:
            uuid = ElementTree.fromstring(file.ome_metadata or "").attrib["UUID"]
        written.append((uuid, path.read_bytes()))
    assert written[0] == written[1]
    assert written[0][0] != written[2][0]
    assert written[0][0].startswith("urn:uuid:")
    assert "00000000" not in written[0][0]
