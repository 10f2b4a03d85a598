from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.fixtures.counting import FieldStyle, shoelace, stained_field
from virtual_stain.config.counting import CountingSettings
from virtual_stain.config.phantom import PhantomSettings
from virtual_stain.counting.cells import Cells
from virtual_stain.counting.count import count_image
from virtual_stain.counting.stain import estimate_stain
from virtual_stain.counting.windows import FoundCells, count_windows, plan_windows, window_tasks
from virtual_stain.errors import ResolutionError
from virtual_stain.markers import Compartment, Marker
from virtual_stain.phantom.pair import make_pair
from virtual_stain.slides.slide import SlideRef, open_slide

SETTINGS = CountingSettings()


def count(path: Path, mpp: float, window_um: float, marker: Marker = Marker.KI67) -> list[FoundCells]:
    settings = dataclasses.replace(SETTINGS, window_um=window_um)
    ref = SlideRef(path, (mpp, mpp))
    image = cv2.imread(str(path))[:, :, ::-1]
    membrane = marker.compartment is Compartment.MEMBRANE
    stain = estimate_stain([np.ascontiguousarray(image[:600, :600])], settings, mpp, membrane=membrane)
    with open_slide(ref) as slide:
        plan = plan_windows(slide, None, settings)
    return [f for task in window_tasks(ref, plan, marker, stain, settings) for f in count_windows(task)]


def joined(found: list[FoundCells]) -> Cells:
    cells = Cells.concatenated([f.cells for f in found])
    return cells.select(np.lexsort((cells.xy[:, 0], cells.xy[:, 1])))


@pytest.mark.parametrize(("mpp", "size_um"), [(0.5, 330.0), (0.346, 260.0)])
def test_windows_give_the_same_cells_as_one_big_window(tmp_path: Path, mpp: float, size_um: float) -> None:
    field = stained_field(size_um, mpp, style=FieldStyle(spacing_um=9.5, noise_grey=4, cytoplasm_od=0.08))
    path = tmp_path / "field.png"
    cv2.imwrite(str(path), field.rgb[:, :, ::-1])
    whole, parts = joined(count(path, mpp, 4096)), count(path, mpp, 96)
    assert len(parts) >= 9
    pieces = joined(parts)
    assert len(pieces) == len(whole) > 400
    assert np.array_equal(pieces.xy, whole.xy)
    assert np.array_equal(pieces.cell_class, whole.cell_class)
    assert np.array_equal(pieces.tumour, whole.tumour)
    assert np.array_equal(pieces.area_um2, whole.area_um2)
    assert np.allclose(pieces.dab_od, whole.dab_od, atol=1e-5)


@pytest.mark.parametrize("marker", [Marker.KI67, Marker.HER2])
def test_crowded_tissue_is_cut_without_a_trace(tmp_path: Path, marker: Marker) -> None:
    """Overlapping nuclei, rivals in chains, membranes: every number of every cell, whatever the windows."""
    scene = make_pair("p", 0, PhantomSettings(size_mm=0.8, ihc_mpp=0.45, marker=marker.value, hard=True, seed=3)).ihc
    side = 600
    rgb = scene.block((scene.size.width - side) // 2, (scene.size.height - side) // 2, side, side)
    path = tmp_path / "crowd.png"
    cv2.imwrite(str(path), rgb[:, :, ::-1])
    whole, parts = count(path, 0.45, 4096, marker), count(path, 0.45, 110, marker)
    assert len(whole) == 1
    assert len(parts) >= 9
    first, second = (_rows(found) for found in (whole, parts))
    assert len(first) > 200
    assert [exact for exact, _ in first] == [exact for exact, _ in second]
    for (_, a), (_, b) in zip(first, second, strict=True):
        assert np.allclose(a, b, rtol=0, atol=1e-5)


@pytest.mark.parametrize("marker", [Marker.KI67, Marker.HER2])
def test_a_window_moved_by_one_pixel_gave_other_cells(marker: Marker) -> None:
    """Halves of pixels were rounded to the even one: each second window read the neighbouring pixels."""
    scene = make_pair("p", 0, PhantomSettings(size_mm=0.8, ihc_mpp=0.5, marker=marker.value, hard=True, seed=3)).ihc
    side = 481
    rgb = scene.block((scene.size.width - side) // 2, (scene.size.height - side) // 2, side, side - 1)
    stain = estimate_stain([rgb], SETTINGS, 0.5, membrane=marker.compartment is Compartment.MEMBRANE)
    here, moved = (count_image(part, (0.5, 0.5), marker, stain, SETTINGS) for part in (rgb[:, 1:], rgb[:, :-1]))
    inner = slice(130, 350)  # whatever decides about a nucleus lies within 64 µm
    rows = []
    for counted, shift in ((here, 1), (moved, 0)):
        cells = counted.cells
        at = cells.xy + np.array([shift, 0])
        table = np.column_stack(
            [at, cells.area_um2, cells.cell_class, counted.intensity, cells.dab_od, counted.measured.contrast_od]
        )
        inside = ((at >= inner.start) & (at < inner.stop)).all(axis=1)
        rows.append(table[inside][np.lexsort(at[inside].T)])
    assert len(rows[0]) > 30
    assert np.array_equal(rows[0][:, :5], rows[1][:, :5])
    assert np.allclose(rows[0], rows[1], rtol=0, atol=1e-5)


def _rows(found: list[FoundCells]) -> list[tuple[tuple[object, ...], list[float]]]:
    """Of every cell what has to be equal, and what is summed over pixels or moved by a corner: rounding apart."""
    rows = []
    for part in found:
        c = part.cells
        for i in range(len(c)):
            ring = part.rings[i]
            assert ring is not None
            classes = (int(c.cell_class[i]), bool(c.tumour[i]), int(part.intensity[i]))
            sums = [float(values[i]) for values in part.columns.values()]
            rows.append(((*c.xy[i].tolist(), *classes, float(c.area_um2[i])), [*sums, *ring.ravel().tolist()]))
    return sorted(rows, key=lambda row: row[0])


def test_outlines_lie_around_their_cells_in_slide_pixels(tmp_path: Path) -> None:
    field = stained_field(200.0, 0.5)
    path = tmp_path / "field.png"
    cv2.imwrite(str(path), field.rgb[:, :, ::-1])
    for found in count(path, 0.5, 96):
        for xy, area, ring in zip(found.cells.xy, found.cells.area_um2, found.rings, strict=True):
            assert (ring.min(axis=0) < xy).all()
            assert (ring.max(axis=0) > xy).all()
            assert 0 < shoelace(ring) * 0.25 < 1.3 * area + 4


def test_a_slide_too_coarse_to_count_is_refused_with_the_option(tmp_path: Path) -> None:
    path = tmp_path / "field.png"
    cv2.imwrite(str(path), np.full((50, 50, 3), 200, np.uint8))
    with open_slide(SlideRef(path, (1.5, 1.5))) as slide, pytest.raises(ResolutionError, match=r"--mpp|at most 0.75"):
        plan_windows(slide, None, SETTINGS)
    with open_slide(SlideRef(path)) as slide, pytest.raises(ResolutionError, match="--mpp"):
        plan_windows(slide, None, SETTINGS)
