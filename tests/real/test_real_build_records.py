"""One Ki67 region on two scanners (0.227 and 0.346 µm/px): each scan once as initial and once as target stain.

The two folders then read the same tissue from two scans. Over tiles that lie wholly inside both, matched through the
transform, the ratios may differ by at most 3 points on average.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tests.fixtures.slides import rewrap_as_tiled_tiff
from virtual_stain.config import Config, CountingSettings, LabelSettings, TilingSettings
from virtual_stain.labels.store import TileStore, TileTable
from virtual_stain.registration.store import read_registration
from virtual_stain.workflows.build_records import BuildOptions, build_records

pytestmark = [pytest.mark.real, pytest.mark.timeout(1800)]

SCANS = {"ndpi": ("OS-2-ndpi.ome.tif", 0.227), "vsi": ("OS-2-vsi.ome.tif", 0.346)}
STRIDE_UM = float(os.environ.get("VSTAIN_TEST_STRIDE_UM", "32"))


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = os.environ.get("VSTAIN_REALDATA")
    if not data:
        pytest.skip("VSTAIN_REALDATA names no folder of real slides")
    root = tmp_path_factory.mktemp("real pair – two scanners")
    for name, (file, mpp) in SCANS.items():
        rewrap_as_tiled_tiff(Path(data) / "qupath_os1_os2_ometiff" / file, root / f"{name}.tiff", mpp)
    table = root / "pairs.csv"
    table.write_text(
        "pair,patient,marker,he,ihc\nndpi-vsi,one,ki67,ndpi.tiff,vsi.tiff\nvsi-ndpi,one,ki67,vsi.tiff,ndpi.tiff\n"
    )
    key = root / "key"
    key.write_text("real test key, 32 bytes or more.")
    key.chmod(0o600)
    config = Config(
        tiling=TilingSettings(stride_um=STRIDE_UM),
        # tiles that reach beyond the other scan are left out below, by their overlap
        labels=LabelSettings(min_tissue_fraction=0.0),
        # both sides are stained for Ki67: without this the initial stain is refused as mislabelled
        counting=CountingSettings(any_stain=True),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VSTAIN_PATIENT_KEY", str(key))
        build_records(table, root / "out", config, BuildOptions(accept_unreviewed=True, jobs=2))
    return root / "out"


def _table(out: Path, pair: str) -> TileTable:
    with TileStore(out / "work" / pair / "tiles.h5") as store:
        return store.table()


def _whole(table: TileTable) -> npt.NDArray[np.bool_]:
    """Wholly inside both scans, and usable."""
    return (table["overlap_fraction"] == 1) & ~table["border"] & (table["weight"] > 0)


def _centres(table: TileTable) -> npt.NDArray[np.float64]:
    x = table["x_px0"] + table["width_px0"] / 2
    y = table["y_px0"] + table["height_px0"] / 2
    return np.stack([x, y], axis=1)


def _ratio(table: TileTable) -> npt.NDArray[np.float64]:
    return np.asarray(table["positive"] / np.maximum(table["positive"] + table["negative"], 1), np.float64)


def test_the_two_readings_of_the_same_tissue_agree(out: Path) -> None:
    first, second = _table(out, "ndpi-vsi"), _table(out, "vsi-ndpi")
    one, two = np.flatnonzero(_whole(first)), np.flatnonzero(_whole(second))
    assert len(one) >= 9
    assert len(two) >= 9
    transform = read_registration(out / "work" / "ndpi-vsi").transform
    mpp = SCANS["vsi"][1]
    here = transform.to_ihc(_centres(first)[one]) * mpp
    there = _centres(second)[two] * mpp
    gaps = np.linalg.norm(here[:, None] - there[None], axis=2)
    nearest = gaps.argmin(axis=1)
    near = gaps[np.arange(len(one)), nearest] <= STRIDE_UM / 2 * np.sqrt(2) + 1
    assert near.sum() >= 9
    a, b = _ratio(first)[one[near]], _ratio(second)[two[nearest[near]]]
    difference = np.abs(a - b)
    print(
        f"{near.sum()} matched tiles: read on the {SCANS['vsi'][0]} {a.mean():.4f}, on the {SCANS['ndpi'][0]} "
        f"{b.mean():.4f}; |difference| mean {difference.mean():.4f}, largest {difference.max():.4f}"
    )
    assert difference.mean() <= 0.03


def test_the_two_registrations_are_each_others_inverse(out: Path) -> None:
    forth = read_registration(out / "work" / "ndpi-vsi")
    back = read_registration(out / "work" / "vsi-ndpi")
    grid = np.linspace(300, 1900, 9)
    points = np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 2)
    loop = back.transform.to_ihc(forth.transform.to_ihc(points))
    error_um = np.linalg.norm(loop - points, axis=1) * SCANS["ndpi"][1]
    print(
        f"median errors as estimated {forth.error_median_um:.2f} and {back.error_median_um:.2f} µm; "
        f"there and back {np.median(error_um):.2f} µm, p95 {np.quantile(error_um, 0.95):.2f} µm"
    )
    assert np.quantile(error_um, 0.95) < 5
