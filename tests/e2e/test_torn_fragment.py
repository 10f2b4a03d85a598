"""A fragment of the IHC section that lies elsewhere: the registration states no error there, and no tile over it
teaches anything, from the slides to the tiles of build-records."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.fixtures.phantoms import TinyPair, tiny_pair
from tests.fixtures.slides import write_tiled_tiff
from virtual_stain.config import Config
from virtual_stain.geometry import Points
from virtual_stain.labels.store import TileStore
from virtual_stain.markers import Marker
from virtual_stain.registration.store import read_registration
from virtual_stain.slides.slide import SlideRef, open_slide
from virtual_stain.workflows.pair import PairJob
from virtual_stain.workflows.pair_job import prepare_pair
from virtual_stain.workflows.part_job import PartJob, build_part

pytestmark = pytest.mark.slow

_MPP = 0.6
_GLASS = 244
_TORN_SHARE = 0.25  # of the tissue's height
_WRONG_UM, _RIGHT_UM = 60.0, 20.0  # the limit of a tile's p95; well inside it


@dataclass(frozen=True)
class Torn:
    """The torn IHC slide and where every place of the whole one went."""

    path: Path
    edge: float
    matrix: np.ndarray
    """float64[2, 3]: for px indices below the edge."""

    def moved(self, points: Points) -> Points:
        away = (points - 0.5) @ self.matrix[:, :2].T + self.matrix[:, 2] + 0.5
        return np.where(points[:, 1:] > self.edge, away, points)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> TinyPair:
    folder = tmp_path_factory.mktemp("whole")
    return tiny_pair(folder, size_mm=2.6, he_mpp=_MPP, ihc_mpp=_MPP, rotation_deg=0, mirror=False, seed=11)


def torn(pair: TinyPair, folder: Path, degrees: float, away_um: tuple[float, float]) -> Torn:
    """The lower part of the tissue turned about its middle and moved."""
    with open_slide(SlideRef(pair.ihc)) as slide:
        rgb = slide.overview(mpp=_MPP).image
    height, width = rgb.shape[:2]
    dark = rgb.min(axis=2) < 220
    rows, columns = (np.nonzero(dark.mean(axis=a) > 0.05)[0] for a in (1, 0))
    edge = round(rows[-1] - _TORN_SHARE * (rows[-1] - rows[0]))
    matrix = cv2.getRotationMatrix2D(((columns[0] + columns[-1]) / 2, (edge + rows[-1]) / 2), degrees, 1.0)
    matrix[:, 2] += np.array(away_um) / _MPP
    canvas = np.full((height + round(away_um[1] / _MPP) + 600, width + 600, 3), _GLASS, np.uint8)
    piece = np.full_like(rgb, _GLASS)
    canvas[:edge, :width], piece[edge:] = rgb[:edge], rgb[edge:]
    size = (canvas.shape[1], canvas.shape[0])
    turned = cv2.warpAffine(piece, matrix, size, flags=cv2.INTER_LINEAR, borderValue=(_GLASS,) * 3)
    path = write_tiled_tiff(folder / "torn.tiff", np.minimum(canvas, turned), _MPP, levels=(1, 4, 16))
    return Torn(path, float(edge), matrix)


@pytest.mark.parametrize(
    ("degrees", "away_um"),
    [(25.0, (0.0, 0.0)), (25.0, (160.0, 520.0)), (0.0, (150.0, 400.0))],
    ids=["turned", "turned and moved", "moved"],
)
def test_no_tile_on_a_torn_fragment_teaches_anything(
    pair: TinyPair, tmp_path: Path, degrees: float, away_um: tuple[float, float]
) -> None:
    changed = torn(pair, tmp_path, degrees, away_um)
    slides = SlideRef(pair.he), SlideRef(changed.path)
    prepared = prepare_pair(PairJob("torn", Marker.KI67, *slides, None, None, tmp_path / "torn", Config()))
    registration = read_registration(prepared.job.folder)
    centres = np.array([t.box.centre for t in prepared.tiles])
    truth = changed.moved(pair.truth.transform.to_ihc(centres))
    off_um = np.linalg.norm(registration.transform.to_ihc(centres) - truth, axis=1) * _MPP
    # the right ones stay: flagging everything would be no answer
    right = off_um < _RIGHT_UM
    _, p95_um = registration.error_at_um(centres)
    kept = p95_um[right] <= Config().registration.tile_p95_um
    assert right.sum() >= 20
    assert kept.mean() > 0.7
    wrong = tuple(t for t, off in zip(prepared.tiles, off_um, strict=True) if off > _WRONG_UM)
    assert len(wrong) >= 5
    # the registration says so itself, before any tile is looked at
    assert np.mean(p95_um[off_um > _WRONG_UM] <= Config().registration.tile_p95_um) < 0.1
    assert registration.flags
    part = PartJob(dataclasses.replace(prepared, tiles=()), 0, wrong)
    build_part(part)
    with TileStore(part.path) as store:
        tiles = list(store.tiles())
    assert [t.flags for t in tiles if not t.dropped and (t.weight > 0 or t.usable_count)] == []
