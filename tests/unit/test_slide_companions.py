"""Slides whose file is an index of others: their pixels count, and nothing outside a served folder is followed."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from virtual_stain.errors import SlideError
from virtual_stain.slides.companions import is_index, named_files
from virtual_stain.slides.openslide_source import is_many_files
from virtual_stain.slides.slide import SlideRef, open_slide
from virtual_stain.web.problem import ApiError
from virtual_stain.web.serve.root import SlideRoot
from virtual_stain.web.serve.upload import _check_opens

INDEX = """[Virtual Microscope Specimen]
NoLayers=1
NoJpegColumns=1
NoJpegRows=1
ImageFile={image}
MapFile={image}
PhysicalWidth=100000
PhysicalHeight=100000
SourceLens=20
"""


def _vms(folder: Path, name: str = "a.vms", image: str = "pixels.jpg", value: int = 200) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    # restart markers, as the scanner writes them: OpenSlide opens no others
    picture = np.full((64, 64, 3), value, np.uint8)
    data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_RST_INTERVAL, 1])[1].tobytes()
    (folder / image).parent.mkdir(parents=True, exist_ok=True)
    (folder / image).write_bytes(data)
    path = folder / name
    path.write_text(INDEX.format(image=image))
    return path


def test_the_hash_of_a_vms_did_not_cover_its_pixels(tmp_path: Path) -> None:
    path = _vms(tmp_path)
    assert named_files(path) == (tmp_path / "pixels.jpg",)
    with open_slide(SlideRef(path)) as slide:
        assert slide.format == "hamamatsu"
        before = slide.content_hash()
    _vms(tmp_path, value=90)
    with open_slide(SlideRef(path)) as slide:
        assert slide.content_hash() != before


@pytest.mark.parametrize(
    "content", [b"", b"II*\0[Virtual Microscope Specimen]\nImageFile=x", b"\xff\xd8\xff", b"[other]\na=1"]
)
def test_other_files_name_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.tif").write_bytes(content)
    assert named_files(tmp_path / "x.tif") == ()
    assert not is_many_files(tmp_path / "x.tif")


def test_an_index_under_another_suffix_is_one_all_the_same(tmp_path: Path) -> None:
    assert is_many_files(_vms(tmp_path, "evil.tif"))


def test_an_index_in_the_root_led_out_of_it(tmp_path: Path) -> None:
    pytest.importorskip("fastapi")
    from virtual_stain.web.problem import ApiError
    from virtual_stain.web.serve.root import SlideRoot

    root = tmp_path / "slides"
    _vms(root)
    _vms(root, "evil.vms", "../secret/label.jpg")
    (root / "inside").mkdir()
    (root / "inside" / "link.jpg").symlink_to(tmp_path / "secret" / "label.jpg")
    _vms(root, "linked.vms", "inside/other.jpg")
    (root / "linked.vms").write_text(INDEX.format(image="inside/link.jpg"))
    served = SlideRoot(root)
    assert served.slide("a.vms") == root / "a.vms"
    for name in ("evil.vms", "linked.vms"):
        with pytest.raises(ApiError, match="no such slide"):
            served.slide(name)


def test_an_upload_that_is_an_index_read_files_outside_the_root(tmp_path: Path) -> None:
    pytest.importorskip("fastapi")
    from virtual_stain.web.problem import ApiError
    from virtual_stain.web.serve.upload import _check_opens

    with pytest.raises(ApiError, match="expected a slide in one file"):
        _check_opens(_vms(tmp_path / "uploads", "evil.tif", "../secret/label.jpg"))


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("ImageFile", "  ImageFile"),
        lambda text: text.replace("ImageFile", "\tImageFile"),
        lambda text: text.replace("ImageFile=", "ImageFile  =  "),
        lambda text: text.replace("[Virtual", "# x\n\n[Virtual").replace("\n", "\r\n"),
        lambda text: "\n".join("   " + line for line in text.split("\n")),
    ],
)
def test_an_indented_index_was_understood_by_the_library_alone(tmp_path: Path, change) -> None:
    """Over HTTP, a picture from outside the root was read so."""
    path = _vms(tmp_path / "served", image="../outside/pixels.jpg")
    path.write_bytes(change(path.read_text()).encode())
    assert tmp_path / "served" / "../outside/pixels.jpg" in named_files(path)
    assert is_index(path)
    with pytest.raises(ApiError, match="no such slide"):
        SlideRoot(tmp_path / "served").slide("a.vms")
    (tmp_path / "served" / "b.tif").write_bytes(path.read_bytes())
    with pytest.raises(ApiError, match="expected a slide in one file"):
        _check_opens(tmp_path / "served" / "b.tif")


def test_an_index_with_escapes_is_refused(tmp_path: Path) -> None:
    path = _vms(tmp_path)
    path.write_text(INDEX.format(image="..\\\\sx.jpg"))
    with pytest.raises(SlideError, match="backslash"):
        named_files(path)


def test_an_index_below_the_root_is_served(tmp_path: Path) -> None:
    _vms(tmp_path)
    assert SlideRoot(tmp_path).slide("a.vms") == (tmp_path / "a.vms").resolve()


@pytest.mark.parametrize("line", ["FILE_0 = ../../outside.dat", "  INDEXFILE=/etc/passwd", "FILE_1=a\\\\sb"])
def test_a_mirax_folder_that_names_files_outside_is_not_served(tmp_path: Path, line: str) -> None:
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    (root / "a.mrxs").write_bytes(b"x")
    (root / "a" / "Slidedat.ini").write_text(f"[DATAFILE]\nFILE_COUNT=1\n{line}\n")
    with pytest.raises(ApiError, match="no such slide"):
        SlideRoot(root).slide("a.mrxs")
    (root / "a" / "Slidedat.ini").write_text("[DATAFILE]\nFILE_0=Data0000.dat\n")
    assert SlideRoot(root).slide("a.mrxs").name == "a.mrxs"


def test_a_dicom_whose_folder_holds_a_link_out_of_the_root_is_not_served(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "a.dcm").write_bytes(bytes(128) + b"DICM")
    assert SlideRoot(root).slide("a.dcm").name == "a.dcm"
    (tmp_path / "secret.dcm").write_bytes(bytes(128) + b"DICM")
    (root / "b.dcm").symlink_to(tmp_path / "secret.dcm")
    with pytest.raises(ApiError, match="no such slide"):
        SlideRoot(root).slide("a.dcm")
