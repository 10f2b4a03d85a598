"""One tile from two small slides whose nuclei are known: where the cells land, and what is left out."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from tests.fixtures.slides import write_tiled_tiff
from virtual_stain.config import Config, CountingSettings, LabelSettings
from virtual_stain.counting.quality import UNEXPLAINED
from virtual_stain.counting.slide_stain import SlideStain
from virtual_stain.counting.vectors import NOT_SEPARABLE, OTHER_STAIN
from virtual_stain.errors import InputError, ResolutionError
from virtual_stain.geometry import Affine2D, Box
from virtual_stain.labels.build import build_tile, transform_sha256
from virtual_stain.labels.regions import Regions, read_regions
from virtual_stain.labels.sources import PairSources, TileSettings
from virtual_stain.markers import Marker
from virtual_stain.registration.transform import PairTransform
from virtual_stain.slides.slide import SlideRef, open_slide
from virtual_stain.slides.tissue import TissueMap
from virtual_stain.tiles import TileRef
from virtual_stain.workflows.pair import PairJob
from virtual_stain.workflows.pair_job import prepare_pair

MPP = 0.5
SIZE = 420  # px0: 210 µm
SHIFT = np.array([30.0, -18.0])  # he_px0 → ihc_px0
BLUE, BROWN = (118, 128, 178), (112, 70, 42)


def _nuclei() -> np.ndarray:
    """float64[N, 2] he_px0: a loose grid of nuclei, every third positive."""
    rng = np.random.default_rng(5)
    x, y = np.meshgrid(np.arange(45, 380, 34.0), np.arange(45, 380, 34.0))
    return np.stack([x.ravel(), y.ravel()], axis=1) + rng.uniform(-3, 3, (x.size, 2))


def _draw(points: np.ndarray, colours: list[tuple[int, int, int]], ground: tuple[int, int, int]) -> np.ndarray:
    image = np.full((SIZE + 60, SIZE + 60, 3), ground, np.uint8)
    for (x, y), colour in zip(points, colours, strict=True):
        centre = (round((x - 0.5) * 16), round((y - 0.5) * 16))
        cv2.circle(image, centre, 9 * 16, colour, -1, cv2.LINE_AA, shift=4)
    return cv2.GaussianBlur(image, (0, 0), 0.8)


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> tuple[SlideRef, SlideRef]:
    folder = tmp_path_factory.mktemp("slides")
    points = _nuclei()
    he = _draw(points, [(90, 50, 120)] * len(points), (235, 180, 205))[:SIZE, :SIZE]
    ihc = _draw(points + SHIFT, [BROWN if i % 3 == 0 else BLUE for i in range(len(points))], (236, 236, 238))
    return (
        SlideRef(write_tiled_tiff(folder / "he.tiff", he, MPP)),
        SlideRef(write_tiled_tiff(folder / "ihc.tiff", ihc, MPP)),
    )


def _tissue(bounds: Box, unknown: Box | None = None) -> TissueMap:
    mask, none = np.ones((60, 60), np.bool_), np.zeros((60, 60), np.bool_)
    if unknown is not None:
        none[int(unknown.y // 8) : int(unknown.y1 // 8), int(unknown.x // 8) : int(unknown.x1 // 8)] = True
    px0_from_ov, overview = Affine2D.scale_and_shift("px0", "ov", (8, 8)), np.zeros((60, 60, 3), np.uint8)
    return TissueMap(mask & ~none, px0_from_ov, overview, True, unknown=none)


def _build(
    slides: tuple[SlideRef, SlideRef],
    box: Box,
    *,
    tile_px: int = 256,
    regions: Regions | None = None,
    stain_flags: tuple[str, ...] = (),
    bare_below_px0: float = 0.0,
    unknown: tuple[Box | None, Box | None] = (None, None),
):
    def _unless_bare(places: np.ndarray, error: float) -> np.ndarray:
        return np.where(places.sum(axis=1) < bare_below_px0, np.inf, error)

    matrix = np.eye(3)
    matrix[:2, 2] = SHIFT
    transform = PairTransform(Affine2D("ihc_px0", "he_px0", matrix))
    registration = SimpleNamespace(
        transform=transform,
        bare_at=lambda p: p.sum(axis=1) < bare_below_px0,
        error_at_um=lambda p: (_unless_bare(p, 3.0), _unless_bare(p, 7.0)),
    )
    settings = TileSettings(
        tile_px=tile_px,
        tile_mpp=box.width * MPP / tile_px,
        max_p95_um=60,
        labels=LabelSettings(min_tile_cells=5),
        counting=CountingSettings(),
    )
    with open_slide(slides[0]) as he, open_slide(slides[1]) as ihc:
        sources = PairSources(
            he=he,
            ihc=ihc,
            he_tissue=_tissue(he.bounds, unknown[0]),
            ihc_tissue=_tissue(ihc.bounds, unknown[1]),
            registration=registration,
            transform_sha256=transform_sha256(transform),
            stain=SlideStain(background=(245.0, 245.0, 245.0), flags=stain_flags),
            marker=Marker.KI67,
            regions=regions or Regions(),
        )
        return build_tile(sources, TileRef(0, 0, box, 0.9, False), settings), sources


def _expected(box: Box, tile_px: int) -> np.ndarray:
    scale = tile_px / box.width
    points = (_nuclei() - (box.x, box.y)) * scale
    return points[((points >= 0) & (points < tile_px)).all(axis=1)]


@pytest.mark.parametrize("tile_px", [512, 256, 128])
def test_cells_lie_in_tile_pixels_whatever_the_size_of_the_tile(
    slides: tuple[SlideRef, SlideRef], tile_px: int
) -> None:
    box = Box(40.25, 52.5, 256, 256)
    tile, _ = _build(slides, box, tile_px=tile_px)
    wanted = _expected(box, tile_px)
    gaps = np.linalg.norm(tile.cells.xy[:, None] - wanted[None], axis=2) * box.width * MPP / tile_px
    assert np.quantile(gaps.min(axis=1), 0.9) < 2.0  # µm: every cell is a nucleus
    assert np.mean(gaps.min(axis=0) < 2.0) > 0.9  # and every nucleus a cell
    assert (tile.cells.xy[:, 1][:-1] <= tile.cells.xy[:, 1][1:]).all()
    assert tile.trust.overlap_fraction == 1
    assert tile.trust.error_p95_um == 7


def test_cells_are_counted_alike_on_coarse_and_fine_tiles(slides: tuple[SlideRef, SlideRef]) -> None:
    box = Box(40.25, 52.5, 256, 256)
    counts = [_build(slides, box, tile_px=tile_px)[0].counts for tile_px in (256, 128)]
    assert counts[0] == counts[1]
    assert counts[0].positive >= 10


@pytest.mark.parametrize("flag", [NOT_SEPARABLE, OTHER_STAIN])
def test_no_tile_of_a_slide_that_is_not_stained_with_dab_trains_the_ratio(
    slides: tuple[SlideRef, SlideRef], flag: str
) -> None:
    """Of an H&E slide in the column of the IHC the tiles had full weight: eosin taken for DAB explains every colour."""
    box = Box(40.25, 52.5, 256, 256)
    usual, other = _build(slides, box)[0], _build(slides, box, stain_flags=(flag,))[0]
    assert UNEXPLAINED not in usual.flags
    assert usual.weight > 0
    assert UNEXPLAINED in other.flags
    assert other.weight == 0


def test_a_cell_on_the_edge_belongs_to_one_tile(slides: tuple[SlideRef, SlideRef]) -> None:
    whole, _ = _build(slides, Box(40, 40, 300, 300), tile_px=600)
    assert len(whole.cells) > 0
    quarters = [
        _build(slides, Box(40 + 150 * i, 40 + 150 * j, 150, 150), tile_px=300)[0] for j in (0, 1) for i in (0, 1)
    ]
    assert sum(len(q.cells) for q in quarters) == len(whole.cells)


def test_nothing_is_counted_beyond_the_he_scan(slides: tuple[SlideRef, SlideRef]) -> None:
    box = Box(300, 300, 200, 200)  # the scan ends at 420
    tile, _ = _build(slides, box, tile_px=400)
    assert len(tile.cells) > 0
    assert (tile.cells.xy < 240.5).all()


def test_an_ihc_scan_that_ends_early_is_poor_overlap(slides: tuple[SlideRef, SlideRef]) -> None:
    box = Box(0, 0, 60, 60)  # 18 px0 above the IHC scan
    tile, _ = _build(slides, box, tile_px=120)
    assert tile.trust.overlap_fraction == pytest.approx(42 / 60, abs=0.02)
    assert "poor_overlap" in tile.flags
    assert (tile.weight, tile.usable_count) == (0.0, False)


def test_what_no_camera_took_of_the_he_slide_is_white_and_holds_no_cells(slides: tuple[SlideRef, SlideRef]) -> None:
    """Tiles beside a black frame went into the records with black in them."""
    box, gone = Box(40, 40, 300, 300), Box(200, 0, 160, 420)
    tile, _ = _build(slides, box, tile_px=300, unknown=(gone, None))
    he = cv2.imdecode(np.frombuffer(tile.he_jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert (he[:, 165:].min(axis=(0, 1)) > 245).all()
    assert (he[:, :140].min(axis=(0, 1)) < 200).all()
    assert len(tile.cells) > 0
    assert (tile.cells.xy[:, 0] < 160).all()


def test_what_no_camera_took_of_the_ihc_slide_covers_nothing(slides: tuple[SlideRef, SlideRef]) -> None:
    box = Box(40, 40, 300, 300)
    gone = Box(40 + SHIFT[0] + 150, 0, 240, 480)
    tile, _ = _build(slides, box, tile_px=300, unknown=(None, gone))
    assert tile.trust.overlap_fraction == pytest.approx(0.5, abs=0.05)
    assert "poor_overlap" in tile.flags
    assert tile.weight == 0
    assert (tile.cells.xy[:, 0] < 155).all()
    ihc = cv2.imdecode(np.frombuffer(tile.ihc_jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert (ihc[:, 165:].min(axis=(0, 1)) > 245).all()


def _square(path: Path, x: float, y: float, side: float) -> Path:
    ring = [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]
    geometry = {"type": "Polygon", "coordinates": [ring]}
    feature = {"type": "Feature", "geometry": geometry, "properties": {"classification": {"name": "Tumor"}}}
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    return path


def test_a_region_on_either_slide_decides_what_is_tumour(slides: tuple[SlideRef, SlideRef], tmp_path: Path) -> None:
    box = Box(40, 40, 300, 300)
    on_he = _square(tmp_path / "he.geojson", 40, 40, 150)
    on_ihc = _square(tmp_path / "ihc.geojson", 40 + SHIFT[0], 40 + SHIFT[1], 150)
    with open_slide(slides[0]) as he, open_slide(slides[1]) as ihc:
        choices = [read_regions(he, ihc, a, b) for a, b in ((on_he, None), (None, on_ihc), (on_he, on_ihc))]
    plain, _ = _build(slides, box, tile_px=600)
    marked = [_build(slides, box, tile_px=600, regions=r)[0] for r in choices]
    for tile in marked:
        np.testing.assert_array_equal(tile.cells.xy, plain.cells.xy)
        inside = (tile.cells.xy < 300).all(axis=1) & (tile.cells.cell_class != 2)
        np.testing.assert_array_equal(tile.cells.tumour, inside)
    assert 0 < marked[0].counts.total < plain.counts.total
    assert marked[0].label_id != plain.label_id
    assert marked[0].label_id == marked[1].label_id == marked[2].label_id


def test_regions_of_a_pair_that_were_swapped_are_refused_by_the_slide_that_they_name(
    slides: tuple[SlideRef, SlideRef], tmp_path: Path
) -> None:
    drawn = _square(tmp_path / "roi.geojson", 40, 40, 150)
    with open_slide(slides[0]) as he, open_slide(slides[1]) as ihc:
        drawn.write_text(json.dumps(json.loads(drawn.read_text()) | {"slide": he.name}))
        assert read_regions(he, ihc, drawn, None).he is not None
        with pytest.raises(InputError, match=he.name):
            read_regions(he, ihc, None, drawn)


def _job(slides: tuple[SlideRef, SlideRef], folder: Path, **changes: object) -> PairJob:
    job = PairJob(
        pair="p",
        marker=Marker.KI67,
        he=slides[0],
        ihc=slides[1],
        he_roi=None,
        ihc_roi=None,
        folder=folder,
        config=Config(),
    )
    return dataclasses.replace(job, **changes)


def test_an_ihc_scan_too_coarse_to_count_is_refused_and_not_enlarged(
    slides: tuple[SlideRef, SlideRef], tmp_path: Path
) -> None:
    coarse = dataclasses.replace(slides[1], mpp_override=(1.0, 1.0))
    with pytest.raises(ResolutionError, match=r"at most 0\.75 µm/px to count"):
        prepare_pair(_job(slides, tmp_path / "p", ihc=coarse))


def test_an_unusable_region_is_told_before_any_work(slides: tuple[SlideRef, SlideRef], tmp_path: Path) -> None:
    bad = tmp_path / "roi.geojson"
    bad.write_text("{}")
    with pytest.raises(InputError, match="roi.geojson"):
        prepare_pair(_job(slides, tmp_path / "p", he_roi=bad))
    assert list((tmp_path / "p").iterdir()) == []


def test_places_without_tissue_under_them_are_a_matter_of_overlap_as_long_as_they_are_few(
    slides: tuple[SlideRef, SlideRef],
) -> None:
    """The overlap allows less than a third of a tile: one of its nine places at the corner, but not three."""
    box = Box(40.0, 52.0, 256, 256)
    whole, few, many = (_build(slides, box, bare_below_px0=x)[0].trust for x in (0.0, 200.0, 300.0))
    assert whole.error_p95_um == few.error_p95_um == 7
    assert many.error_p95_um is None
    assert many.error_median_um is None
