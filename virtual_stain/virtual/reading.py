"""Three readings of a virtual tile, and what makes them doubtful."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from virtual_stain.config.counting import CountingSettings
from virtual_stain.counting.cells import Cells
from virtual_stain.counting.count import count_cells
from virtual_stain.counting.resample import AreaResampler
from virtual_stain.counting.slide_stain import SlideStain
from virtual_stain.markers import Marker
from virtual_stain.virtual.draw import REFERENCE, Drawn, draw
from virtual_stain.virtual.he_nuclei import find_he_nuclei
from virtual_stain.virtual.maps import Core, Maps, Window

UNSTABLE = "virtual_reading_unstable"
LOST = "nuclei_lost"
FLAG_SENTENCES = {
    UNSTABLE: "the count on the drawn picture and the expected ratio differ by more than 5 points, and by more than "
    "chance makes of so few nuclei",
    LOST: "the counter finds fewer than 80 % of the tumour nuclei that the generator expects: the picture, or the "
    "expected number, is wrong here",
}
"""What each flag means, for people."""
MAX_DIFFERENCE = 0.05
"""Of `counted` and `expected`; beyond: UNSTABLE …"""
CHANCE_ERRORS = 2.0
"""… if it also exceeds so many standard errors of a ratio of as many nuclei: of 60 nuclei, a third of them positive, a
draw of whole nuclei misses its expected ratio by 6 points in a standard error."""
MIN_FOUND_SHARE = 0.8
"""Tumour nuclei found of those expected; below: LOST."""
_GRID_PX = 16


@dataclass(frozen=True, slots=True)
class VirtualReading:
    """Of one tile."""

    counted: float | None
    """Ratio of the product's counter on the drawn picture; None without tumour nuclei."""
    expected: float | None
    """Σλp / Σλ; None where no tumour cell is expected."""
    density: float | None
    """ΣD / (ΣD + ΣH): the share of DAB in all of the stain, which is no ratio of cells; None without stain."""
    counted_cells: int
    """Tumour nuclei that the counter found."""
    expected_cells: float
    """Σλ."""
    flags: tuple[str, ...]
    stain: float = 0.0
    """ΣD + ΣH."""


def margin_px(mpp: float, settings: CountingSettings, halo_px: int) -> int:
    """What a core needs around it: the counter's margin around each nucleus that reaches into it, and the halo."""
    reach_um = settings.margin_um + 2 * settings.max_radius_um
    return max(halo_px + _GRID_PX, math.ceil(reach_um / mpp))


def grid_px(mpp: float, settings: CountingSettings) -> int:
    """Windows begin at multiples of this: whole places, and whole working pixels."""
    return math.lcm(_GRID_PX, *AreaResampler.towards((mpp, mpp), settings.work_mpp).period)


def read_window(
    rgb: npt.NDArray[np.uint8],
    maps: Maps,
    window: Window,
    marker: Marker,
    *,
    mpp: float,
    stain: SlideStain,
    seed: float,
    settings: CountingSettings,
) -> tuple[VirtualReading, Drawn]:
    """Draws a window of H&E (uint8[h, w, 3], white beyond the slide), counts on the picture and reads its core.

    `stain`: of the H&E slide (`estimate_he_stain`); `seed`: `slide_seed`.
    """
    nuclei = find_he_nuclei(rgb, mpp, stain, settings)
    drawn = draw(nuclei, maps, window, mpp, stain, seed)
    reference = dataclasses.replace(REFERENCE, typical_area_um2=stain.typical_area_um2)
    cells = count_cells(drawn.rgb, mpp, marker, reference, settings)
    return reading(_inside(cells, window.core), maps.inside(window.core)), drawn


def reading(cells: Cells, maps: Maps) -> VirtualReading:
    """From the cells that were counted in the core, and its maps."""
    counts = cells.counts()
    found = counts.positive + counts.negative
    expected_cells = float(maps.tumour_cells.sum(dtype=np.float64))
    positive = float((maps.tumour_cells * maps.positive_share).sum(dtype=np.float64))
    dab, hematoxylin = (float(m.sum(dtype=np.float64)) for m in (maps.dab, maps.hematoxylin))
    return _reading(counts.positive, found, positive, expected_cells, dab, hematoxylin)


def of_slide(tiles: Iterable[VirtualReading]) -> VirtualReading:
    """All cells and all stain of a slide's tiles together."""
    positive, found, expected_positive, expected_cells, dab, stain = 0, 0, 0.0, 0.0, 0.0, 0.0
    for tile in tiles:
        positive += round((tile.counted or 0.0) * tile.counted_cells)
        found += tile.counted_cells
        expected_positive += (tile.expected or 0.0) * tile.expected_cells
        expected_cells += tile.expected_cells
        dab += (tile.density or 0.0) * tile.stain
        stain += tile.stain
    return _reading(positive, found, expected_positive, expected_cells, dab, stain - dab)


def _reading(
    positive: int, found: int, expected_positive: float, expected_cells: float, dab: float, hematoxylin: float
) -> VirtualReading:
    counted = positive / found if found else None
    expected = expected_positive / expected_cells if expected_cells > 0 else None
    unstable = counted is not None and expected is not None and disagree(counted, expected, found)
    raised = {UNSTABLE: unstable, LOST: found < MIN_FOUND_SHARE * expected_cells}
    return VirtualReading(
        counted=counted,
        expected=expected,
        density=dab / (dab + hematoxylin) if dab + hematoxylin > 0 else None,
        counted_cells=found,
        expected_cells=expected_cells,
        flags=tuple(name for name, is_set in raised.items() if is_set),
        stain=dab + hematoxylin,
    )


def disagree(counted: float, expected: float, nuclei: int) -> bool:
    """Whether two ratios differ by more than both the limit and what chance makes of so many counted nuclei."""
    chance = CHANCE_ERRORS * math.sqrt(max(expected * (1 - expected), 0.0) / max(nuclei, 1))
    return abs(counted - expected) > max(MAX_DIFFERENCE, chance)


def _inside(cells: Cells, core: Core) -> Cells:
    x, y = cells.xy[:, 0] - core.left, cells.xy[:, 1] - core.top
    return cells.select((x >= 0) & (x < core.width) & (y >= 0) & (y < core.height))
