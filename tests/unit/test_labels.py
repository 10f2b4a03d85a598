from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest

from virtual_stain.config.labels import LabelSettings
from virtual_stain.counting.cells import CellClass, Cells
from virtual_stain.counting.focus import focus_ratio
from virtual_stain.errors import VerificationError
from virtual_stain.geometry import Box
from virtual_stain.labels.jpeg import decode_jpeg, encode_jpeg
from virtual_stain.labels.label import TileLabel, Trust, countable, judge, label_id
from virtual_stain.labels.store import TileStore, join_parts, stored_fingerprint, write_tiles

SOUND = Trust(1.0, 1.0, 0.5, 0.5, 5.0, 12.0, False)


def _cells(n: int, seed: int = 0) -> Cells:
    rng = np.random.default_rng(seed)
    return Cells(
        xy=rng.uniform(0, 64, (n, 2)).astype(np.float32).astype(np.float64),
        cell_class=rng.integers(0, 3, n).astype(np.uint8),
        tumour=rng.uniform(size=n) < 0.7,
        dab_od=rng.uniform(size=n).astype(np.float32),
        area_um2=rng.uniform(10, 90, n).astype(np.float32),
    )


def _image(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (64, 64, 3)).astype(np.uint8)


def _tile(index: int, n_cells: int = 20) -> TileLabel:
    cells = _cells(n_cells, index)
    flags, weight, usable = judge(SOUND, cells.counts().total, LabelSettings(), max_p95_um=60)
    return TileLabel(
        col=index,
        row=2,
        box=Box(index * 1353.3039647577, 7.25, 1353.3, 1353.4),
        tissue_fraction=0.75,
        trust=dataclasses.replace(SOUND, focus_ihc=None),
        cells=cells,
        flags=flags,
        weight=weight,
        usable_count=usable,
        label_id=label_id(_image(index), _image(index + 1), "t", cells),
        he_jpeg=encode_jpeg(_image(index), 95),
        ihc_jpeg=encode_jpeg(_image(index + 1), 95),
    )


@pytest.mark.parametrize(
    ("change", "n", "flags", "weight", "usable"),
    [
        ({}, 50, (), 1.0, True),
        ({}, 49, ("few_cells",), 0.0, True),
        ({"border": True}, 80, ("border",), 1.0, True),
        ({"overlap_fraction": 0.89}, 80, ("poor_overlap",), 0.0, False),
        ({"tissue_overlap_fraction": 0.5}, 80, ("poor_overlap",), 0.0, False),
        ({"tissue_overlap_fraction": None}, 0, ("few_cells",), 0.0, True),
        ({"focus_he": 0.1}, 80, ("blur_he",), 0.0, True),
        ({"focus_ihc": 0.1}, 80, ("blur_ihc",), 0.0, False),
        ({"focus_ihc": None}, 80, (), 1.0, True),
        ({"error_p95_um": 60.0}, 80, (), 1.0, True),
        ({"error_p95_um": 60.1}, 80, ("registration",), 0.0, False),
        ({"error_p95_um": None}, 80, ("registration",), 0.0, False),
    ],
)
def test_what_a_tile_may_train(change: dict, n: int, flags: tuple, weight: float, usable: bool) -> None:
    trust = dataclasses.replace(SOUND, **change)
    assert judge(trust, n, LabelSettings(), max_p95_um=60.0) == (flags, weight, usable)


def test_the_label_id_changes_with_pixels_transform_and_cells_only() -> None:
    he, ihc, cells = _image(0), _image(1), _cells(5)
    first = label_id(he, ihc, "t", cells)
    assert first == label_id(he.copy(), ihc.copy(), "t", cells)
    other = he.copy()
    other[3, 3, 1] ^= 1
    moved = cells.moved(cells.xy + np.array([0.01, 0]))
    turned = dataclasses.replace(cells, tumour=~cells.tumour)
    changed = [
        label_id(other, ihc, "t", cells),
        label_id(ihc, he, "t", cells),
        label_id(he, ihc, "u", cells),
        label_id(he, ihc, "t", moved),
        label_id(he, ihc, "t", turned),
    ]
    assert len({first, *changed}) == 6


def test_only_tumour_nuclei_count() -> None:
    cells = _cells(200)
    chosen = countable(cells)
    assert chosen.tumour.all()
    assert CellClass.OTHER not in chosen.cell_class
    assert len(chosen) == cells.counts().total


def test_jpeg_keeps_colour_edges_and_is_repeatable() -> None:
    # chroma subsampling would smear a one-pixel red/blue pattern to violet
    image = np.zeros((32, 32, 3), np.uint8)
    image[:, ::2, 0] = 200
    image[:, 1::2, 2] = 200
    data = encode_jpeg(image, 95)
    assert data == encode_jpeg(image, 95)
    assert np.abs(decode_jpeg(data).astype(int) - image).max() < 40
    with pytest.raises(VerificationError):
        decode_jpeg(data[:3])
    with pytest.raises(VerificationError):
        decode_jpeg(b"")


def test_blur_lowers_the_focus_ratio_below_the_threshold() -> None:
    rng = np.random.default_rng(0)
    grey = np.full((512, 512), 225, np.uint8)
    for x, y, r in zip(rng.integers(0, 512, 300), rng.integers(0, 512, 300), rng.integers(8, 14, 300), strict=True):
        cv2.circle(grey, (int(x), int(y)), int(r), int(rng.integers(70, 130)), -1, cv2.LINE_AA)
    sharp = np.clip(cv2.GaussianBlur(grey, (0, 0), 1.0) + rng.normal(0, 3, grey.shape), 0, 255).astype(np.uint8)
    image = np.repeat(sharp[..., None], 3, axis=2)
    assert focus_ratio(image, 0.3) > 0.25
    assert focus_ratio(cv2.GaussianBlur(image, (0, 0), 2.0 / 0.3), 0.3) < 0.18
    assert focus_ratio(np.full((512, 512, 3), 255, np.uint8), 0.3) is None
    assert focus_ratio(np.full((512, 512, 3), 128, np.uint8), 0.3) is None


def _same(a: TileLabel, b: TileLabel) -> None:
    for field in dataclasses.fields(TileLabel):
        if field.name != "cells":
            assert getattr(a, field.name) == getattr(b, field.name), field.name
    for column in dataclasses.fields(Cells):
        np.testing.assert_array_equal(getattr(a.cells, column.name), getattr(b.cells, column.name))


def test_a_store_gives_back_what_was_put_in(tmp_path: Path) -> None:
    tiles = [_tile(0), _tile(1, 0), _tile(2, 90)]
    path = tmp_path / "tiles.h5"
    write_tiles(path, tiles, "key")
    with TileStore(path) as store:
        assert (len(store), store.fingerprint) == (3, "key")
        for tile, back in zip(tiles, store.tiles(), strict=True):
            _same(tile, back)
        table = store.table()
    assert table["positive"].tolist() == [t.counts.positive for t in tiles]
    assert [p.name for p in tmp_path.iterdir()] == ["tiles.h5"]


def test_joined_parts_are_byte_equal_to_a_store_written_at_once(tmp_path: Path) -> None:
    tiles = [_tile(i, 10 * i) for i in range(5)]
    parts = [tmp_path / "0000.h5", tmp_path / "0001.h5", tmp_path / "0002.h5"]
    for path, chosen in zip(parts, (tiles[:2], [], tiles[2:]), strict=True):
        write_tiles(path, chosen, "part")
    join_parts(tmp_path / "joined.h5", parts, "key")
    with TileStore(tmp_path / "joined.h5") as store:
        for tile, back in zip(tiles, store.tiles(), strict=True):
            _same(tile, back)
    join_parts(tmp_path / "again.h5", parts, "key")
    assert (tmp_path / "again.h5").read_bytes() == (tmp_path / "joined.h5").read_bytes()


def test_parts_are_joined_in_the_order_of_the_tiles_and_not_of_the_parts(tmp_path: Path) -> None:
    tiles = [_tile(i, 10 * i) for i in range(5)]
    order = [3, 0, 4, 1, 2]
    parts = [tmp_path / "0000.h5", tmp_path / "0001.h5"]
    for path, chosen in zip(parts, (tiles[:2], tiles[2:]), strict=True):
        write_tiles(path, chosen, "part")
    join_parts(tmp_path / "joined.h5", parts, "key", order)
    with TileStore(tmp_path / "joined.h5") as store:
        for place, back in zip(order, store.tiles(), strict=True):
            _same(tiles[place], back)
        assert store.is_sound()
    with pytest.raises(ValueError, match="every one of 5 tiles once"):
        join_parts(tmp_path / "bad.h5", parts, "key", [0, 1, 2, 3, 3])


def test_a_store_without_tiles(tmp_path: Path) -> None:
    write_tiles(tmp_path / "part.h5", [], "k")
    join_parts(tmp_path / "tiles.h5", [tmp_path / "part.h5"], "k")
    with TileStore(tmp_path / "tiles.h5") as store:
        assert len(store) == 0
        assert len(store.table()) == 0


def test_a_store_that_is_cut_off_counts_as_not_there(tmp_path: Path) -> None:
    path = tmp_path / "tiles.h5"
    assert stored_fingerprint(path) is None
    write_tiles(path, [_tile(0)], "key")
    assert stored_fingerprint(path) == "key"
    path.write_bytes(path.read_bytes()[:-100])
    assert stored_fingerprint(path) is None
    with pytest.raises(VerificationError, match="expected a store of tiles"):
        TileStore(path)


def test_pixels_that_had_rotted_were_packed_as_good(tmp_path: Path) -> None:
    """2,000 zeroed bytes of a picture: it still decoded, and nothing compared it with what was labelled."""
    path = tmp_path / "tiles.h5"
    tiles = [_tile(0), _tile(1)]
    write_tiles(path, tiles, "key")
    data = bytearray(path.read_bytes())
    at = data.index(tiles[1].he_jpeg) + len(tiles[1].he_jpeg) // 2
    data[at : at + 40] = bytes(40)
    path.write_bytes(data)
    with TileStore(path) as store:
        _same(tiles[0], store.tile(0))
        with pytest.raises(VerificationError, match="not the one that was labelled"):
            store.tile(1)
    assert stored_fingerprint(path) is None  # so it is made again


def test_no_changed_byte_of_a_store_changes_a_label_in_silence(tmp_path: Path) -> None:
    path = tmp_path / "tiles.h5"
    tiles = [_tile(0), _tile(1)]
    write_tiles(path, tiles, "key")
    whole = path.read_bytes()
    rng = np.random.default_rng(5)
    unnoticed = 0
    for at in rng.integers(0, len(whole), 60):
        data = bytearray(whole)
        data[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
        if stored_fingerprint(path) == "key":  # unused space, or a name that nobody reads
            unnoticed += 1
            with TileStore(path) as store:
                for tile, back in zip(tiles, store.tiles(), strict=True):
                    _same(tile, back)
    assert unnoticed < 60, "some of the bytes are a label's"


def test_a_write_that_fails_leaves_the_older_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tiles.h5"
    write_tiles(path, [_tile(0)], "old")
    with pytest.raises(AttributeError):
        write_tiles(path, [object()], "new")  # type: ignore[list-item]
    assert stored_fingerprint(path) == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["tiles.h5"]
