"""Files that were made to do harm: bombs, numbers without end, names that move a terminal's cursor."""

from __future__ import annotations

import io
import struct
import sys
import zipfile
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.fixtures.registration import plain_registration, toy_transform
from virtual_stain.cli.terminal import prepare_terminal
from virtual_stain.config import load_config
from virtual_stain.counting.given_files import read_given_cells
from virtual_stain.counting.region import read_region
from virtual_stain.errors import ConfigError, InputError, SlideError
from virtual_stain.geometry import Box, Size
from virtual_stain.registration.store import H5_NAME, read_registration, write_registration
from virtual_stain.report.panel.rules import parse_rule_set
from virtual_stain.slides.slide import SlideRef, open_slide
from virtual_stain.slides.tiff_description import ome_claims

BOUNDS = Box(0, 0, 512, 512)
DEEP, LONG = "[" * 100_000, "9" * 5000


@pytest.mark.parametrize("value", [DEEP, "[" * 5000 + "]" * 5000, LONG], ids=["open", "closed", "digits"])
def test_toml_that_is_too_deep_or_too_long_was_a_traceback(tmp_path: Path, value: str) -> None:
    (tmp_path / "a.toml").write_text(f"[tiling]\nwindow_um = {value}")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_config(tmp_path / "a.toml")
    with pytest.raises(ConfigError):
        load_config(None, [f"tiling.window_um={value}"])
    with pytest.raises(ConfigError):
        parse_rule_set(f"a = {value}", "rules.toml")


@pytest.mark.parametrize("number", [LONG, "1e308", "1e999", "NaN", "null", "[]"])
def test_an_annotation_without_bounds_is_refused(tmp_path: Path, number: str) -> None:
    ring = f"[[[1, 1], [{number}, 1], [{number}, {number}], [1, 1]]]"
    polygon = f'{{"type": "Polygon", "coordinates": {ring}}}'
    feature = f'{{"type": "Feature", "geometry": {polygon}, "properties": {{}}}}'
    (tmp_path / "a.geojson").write_text(feature)
    with pytest.raises(InputError, match=r"a\.geojson"):
        read_region(tmp_path / "a.geojson", BOUNDS)


@pytest.mark.parametrize("value", ["true", "5", '"x"', "[5]", "[[5]]", "{}"])
@pytest.mark.parametrize("kind", ["Polygon", "MultiPolygon", "GeometryCollection"])
def test_coordinates_that_are_none_were_a_traceback(tmp_path: Path, kind: str, value: str) -> None:
    geometry = f'{{"type": "{kind}", "coordinates": {value}, "geometries": {value}}}'
    (tmp_path / "a.geojson").write_text(f'{{"type": "Feature", "geometry": {geometry}, "properties": {{}}}}')
    with pytest.raises(InputError, match=r"a\.geojson"):
        read_region(tmp_path / "a.geojson", BOUNDS)


def test_annotations_in_annotations_without_end_are_refused(tmp_path: Path) -> None:
    child = '{"type": "Feature", "geometry": null, "properties": {}, "childObjects": ['
    for depth in (400, 5000):
        (tmp_path / "a.geojson").write_text(child * depth + "]}" * depth)
        with pytest.raises(InputError):
            read_region(tmp_path / "a.geojson", BOUNDS)


def test_a_registration_that_claims_a_terabyte_was_out_of_memory(tmp_path: Path) -> None:
    write_registration(plain_registration(toy_transform(40, elastic_px=3.0)), tmp_path)
    with h5py.File(tmp_path / H5_NAME, "a") as file:
        attributes = dict(file["displacement/values_px0"].attrs)
        del file["displacement/values_px0"]
        size = (300_000, 300_000, 2)
        claimed = file.create_dataset("displacement/values_px0", size, "f4", chunks=(1000, 1000, 2), compression="gzip")
        claimed.attrs.update(attributes)
    (tmp_path / "registration.json").unlink()
    with pytest.raises(InputError, match="at most 4000000000 bytes"):
        read_registration(tmp_path / H5_NAME)


def test_an_archive_that_unpacks_to_gigabytes_is_refused(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (200_000_000, 2)})
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("points.npy", "w", force_zip64=True) as stream:
            stream.write(header.getvalue())
            for _ in range(200):
                stream.write(bytes(16_000_000))
        archive.writestr("coord.npy", b"")
    assert (tmp_path / "a.npz").stat().st_size < 10_000_000
    with pytest.raises(InputError, match="GB of numbers"):
        read_given_cells(tmp_path / "a.npz", BOUNDS, (0.5, 0.5))


def test_numbers_that_are_a_program_are_not_run(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", points=np.array([{"a": 1}], object), coord=np.zeros((1, 2, 3)))
    with pytest.raises(InputError):
        read_given_cells(tmp_path / "a.npz", BOUNDS, (0.5, 0.5))


def _png(width: int, height: int, colour: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_a_picture_of_a_few_bytes_and_gigapixels_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(_png(60_000, 60_000, 2))
    with pytest.raises(SlideError, match="256 megapixels"):
        open_slide(SlideRef(tmp_path / "a.png"))
    (tmp_path / "mask.png").write_bytes(_png(60_000, 60_000, 0))
    with pytest.raises(InputError, match="mask"):
        read_region(tmp_path / "mask.png", BOUNDS)


def test_entities_of_ome_xml_are_not_followed() -> None:
    entities = "".join(f'<!ENTITY a{i + 1} "{f"&a{i};" * 10}">' for i in range(9))
    bomb = f'<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a0 "aaaaaaaaaa">{entities}]><OME>&a9;</OME>'
    outside = '<!DOCTYPE l [<!ENTITY x SYSTEM "file:///etc/passwd">]><OME>&x;</OME>'
    for text in (bomb, outside, "<a>" * 200_000):
        claims, _, other_size = ome_claims(text, Size(1, 1))
        assert (claims, other_size) == ([], None)


def test_a_name_cannot_clear_or_turn_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="utf-8"))
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.BytesIO(), encoding="utf-8"))
    prepare_terminal()
    print("a\x1b[2J\x1b]0;title\x07 \x9b31m \u202etxt.exe ü → b")
    sys.stdout.flush()
    assert written.getvalue().decode() == "a\\x1b[2J\\x1b]0;title\\x07 \\x9b31m \\u202etxt.exe ü → b\n"


def test_a_terminal_of_latin_1_shows_the_number_of_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """An arrow ended a batch after its first slide."""
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="latin-1"))
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.BytesIO(), encoding="latin-1"))
    prepare_terminal()
    print("ü → b")
    sys.stdout.flush()
    assert written.getvalue() == "ü \\u2192 b\n".encode("latin-1")
