"""Blocks of tiles: the same pixels, cells and label ids as of each tile by itself."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from tests.fixtures.slides import write_tiled_tiff
from virtual_stain.config import CountingSettings, LabelSettings, TilingSettings
from virtual_stain.counting.slide_stain import SlideStain
from virtual_stain.geometry import Affine2D, Size
from virtual_stain.labels import raster as raster_module
from virtual_stain.labels.build import build_tile, transform_sha256
from virtual_stain.labels.fixed_map import Sampling, read_raster, sampling_of
from virtual_stain.labels.ihc_block import count_block
from virtual_stain.labels.label import TileLabel
from virtual_stain.labels.raster import Area, Raster, cut_blocks, resampler
from virtual_stain.labels.raster_map import map_to_ihc
from virtual_stain.labels.regions import Regions
from virtual_stain.labels.sources import PairSources, TileSettings
from virtual_stain.markers import Marker
from virtual_stain.registration.transform import DisplacementField, PairTransform
from virtual_stain.slides.slide import SlideRef, open_slide
from virtual_stain.slides.tissue import TissueMap
from virtual_stain.slides.window import read_warped_window
from virtual_stain.tiles import TileGrid, TileRef, make_grid

MPP = 0.5
SIZE = 560


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> SlideRef:
    """Nuclei, blue and brown, on a ground with noise."""
    rng = np.random.default_rng(3)
    image = np.full((SIZE, SIZE, 3), (236, 230, 232), np.uint8)
    for x, y in rng.uniform(10, SIZE - 10, (700, 2)):
        colour = ((112, 70, 42), (118, 128, 178))[int(rng.random() < 0.6)]
        cv2.circle(image, (int(x * 16), int(y * 16)), int(rng.uniform(5, 10) * 16), colour, -1, cv2.LINE_AA, shift=4)
    image = cv2.GaussianBlur(image, (0, 0), 0.8).astype(np.int16) + rng.integers(-6, 7, image.shape)
    folder = tmp_path_factory.mktemp("slides")
    return SlideRef(write_tiled_tiff(folder / "a.tiff", np.clip(image, 0, 255).astype(np.uint8), MPP))


def _transform(scale: float, *, bent: bool = True) -> PairTransform:
    matrix = np.array([[0.97 * scale, -0.24 * scale, 70.3], [0.24 * scale, 0.97 * scale, -31.7], [0, 0, 1]])
    values = np.random.default_rng(8).normal(0, 3, (7, 8, 2)).astype(np.float32)
    field = DisplacementField((-30.0, -20.0), (97.0, 101.0), values) if bent else None
    return PairTransform(Affine2D("ihc_px0", "he_px0", matrix), field)


@pytest.mark.parametrize(("scale", "fineness"), [(0.9, 1), (2.2, 2), (4.4, 3)])
@pytest.mark.parametrize("bent", [True, False])
def test_every_area_of_a_raster_shows_the_same_pixels(
    slide: SlideRef, scale: float, fineness: int, *, bent: bool
) -> None:
    transform, raster = _transform(scale, bent=bent), Raster((11.25, 7.5), (0.6, 0.61), 0.3)
    whole = Area(-23, -40, 300, 217)
    with open_slide(slide) as ihc:
        sampling = sampling_of(ihc, transform, raster)
        assert sampling == Sampling(0, fineness, exact=True)
        image = read_raster(ihc, transform, raster, whole, sampling)
        for area in (Area(0, 0, 64, 64), Area(-23, 37, 120, 38), Area(101, -13, 299, 203)):
            part = read_raster(ihc, transform, raster, area, sampling)
            rows, columns = slice(area.y + 40, area.y1 + 40), slice(area.x + 23, area.x1 + 23)
            np.testing.assert_array_equal(part, image[rows, columns])
        he_from_area = Affine2D.scale_and_shift(
            "he_px0", "area", raster.step_px0, (11.25 + 0.6 * whole.x, 7.5 + 0.61 * whole.y)
        )
        reference, _ = read_warped_window(
            ihc,
            transform.ihc_from_he @ he_from_area,
            Size(whole.width, whole.height),
            lambda points: map_to_ihc(transform, he_from_area, points),
        )
    difference = np.abs(image.astype(int) - reference)[4:-4, 4:-4]
    assert image.std() > 20
    assert difference.mean() < 0.2
    assert np.quantile(difference, 0.999) <= 4


def test_a_scan_far_finer_than_the_tiles_is_read_tile_by_tile(slide: SlideRef) -> None:
    with open_slide(slide) as ihc:
        assert not sampling_of(ihc, _transform(8.0), Raster((0.0, 0.0), (0.6, 0.6), 0.3)).exact


def _sources(slide: SlideRef, he, ihc) -> PairSources:  # type: ignore[no-untyped-def]
    transform = _transform(1.0)
    mask, gone = np.ones((70, 70), np.bool_), np.zeros((70, 70), np.bool_)
    gone[30:36, 20:31] = True
    tissue = TissueMap(
        mask & ~gone, Affine2D.scale_and_shift("px0", "ov", (8, 8)), np.zeros((70, 70, 3), np.uint8), True, unknown=gone
    )
    registration = SimpleNamespace(
        transform=transform,
        bare_at=lambda p: np.zeros(len(p), np.bool_),
        error_at_um=lambda p: (np.full(len(p), 3.0), np.full(len(p), 7.0)),
    )
    return PairSources(
        he=he,
        ihc=ihc,
        he_tissue=tissue,
        ihc_tissue=tissue,
        registration=registration,
        transform_sha256=transform_sha256(transform),
        stain=SlideStain(background=(245.0, 245.0, 245.0)),
        marker=Marker.KI67,
        regions=Regions(),
    )


def _tiles(grid: TileGrid, places: list[tuple[int, int]]) -> list[TileRef]:
    return [TileRef(col, row, grid.box(col, row), 0.9, False) for col, row in places]


def _labels(
    slide: SlideRef, places: list[tuple[int, int]], tiling: TilingSettings, *, shared: bool
) -> tuple[int, list[TileLabel]]:
    settings = TileSettings(
        tile_px=tiling.tile_px,
        tile_mpp=tiling.tile_mpp,
        max_p95_um=60,
        labels=LabelSettings(min_tile_cells=5),
        counting=CountingSettings(),
    )
    with open_slide(slide) as he, open_slide(slide) as ihc:
        grid = make_grid(he.bounds, he.mpp, tiling)
        sources = _sources(slide, he, ihc)
        blocks = cut_blocks(_tiles(grid, places), grid, settings.count_px, settings.margin_px, shared=shared)
        labels = [
            build_tile(sources, tile, settings, counted)
            for block in blocks
            for counted in (count_block(sources, block, settings),)
            for tile in block.tiles
        ]
    return len(blocks), labels


def _content(tile: TileLabel) -> tuple[object, ...]:
    cells = [getattr(tile.cells, name).tobytes() for name in ("xy", "cell_class", "tumour", "dab_od", "area_um2")]
    plain = [getattr(tile, f.name) for f in dataclasses.fields(tile) if f.name != "cells"]
    return (*plain, *cells)


@pytest.mark.parametrize(
    ("tiling", "places"),
    [
        # 204 px: each tile would begin in another phase of the working pixels (5 px) than its neighbour
        (TilingSettings(window_um=61.2, tile_px=204), [(0, 0), (0, 1), (1, 0), (1, 1), (4, 3)]),
        # coarse tiles: three counted pixels a tile pixel and axis; half a window between them
        (TilingSettings(window_um=72.0, tile_px=64, stride_um=36.0), [(1, 1), (2, 1), (3, 2)]),
    ],
)
def test_tiles_of_a_block_equal_each_tile_by_itself(
    slide: SlideRef, tiling: TilingSettings, places: list[tuple[int, int]]
) -> None:
    n_shared, shared = _labels(slide, places, tiling, shared=True)
    n_alone, alone = _labels(slide, places, tiling, shared=False)
    assert n_shared < n_alone == len(places)
    assert [_content(t) for t in shared] == [_content(t) for t in alone]
    assert sum(len(t.cells) for t in shared) > 50
    assert len({t.label_id for t in shared}) == len(places)


def test_a_step_of_no_whole_pixels_leaves_every_tile_alone(slide: SlideRef) -> None:
    n_blocks, labels = _labels(
        slide, [(0, 0), (1, 0)], TilingSettings(window_um=61.2, tile_px=204, stride_um=40.1), shared=True
    )
    assert n_blocks == len(labels) == 2


def test_blocks_hold_every_tile_once_and_stay_small(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = TileGrid((0.0, 0.0), SimpleNamespace(x=0.25, y=0.25), 307.2, 307.2, 1024, 40, 40)  # type: ignore[arg-type]
    places = [(col, row) for col in range(7) for row in range(3)]
    tiles = [TileRef(col, row, grid.box(col, row), 0.9, False) for col, row in places]
    blocks = cut_blocks(tiles, grid, 1024, 294, shared=True)
    assert [t for b in blocks for t in b.tiles] == tiles
    assert [len(b.tiles) for b in blocks] == [9, 9, 3]
    period = resampler(0.3, 0.5).period
    assert period == (5, 5)
    assert blocks[1].around(294, period) == Area(2775, -295, 6440, 3370)
    apart = [tiles[0], TileRef(3, 0, grid.box(3, 0), 0.9, False)]
    assert len(cut_blocks(apart, grid, 1024, 294, shared=True)) == 2  # the glass between them would cost more
    monkeypatch.setattr(raster_module, "MAX_BLOCK_PX", 1024**2)
    assert len(cut_blocks(tiles, grid, 1024, 294, shared=True)) == len(tiles)
