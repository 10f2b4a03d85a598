"""A slide as windows with a margin: a cell belongs to the window whose core holds its centroid.

Cores tile the scan without gaps or overlaps, and every window starts at a multiple of the resampling period; so
each cell is found once, with the same pixels around it, as if the slide were one image.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from virtual_stain.config.counting import CountingSettings
from virtual_stain.counting.cells import Cells
from virtual_stain.counting.count import Counted, count_given, count_image
from virtual_stain.counting.given import GivenCells, ImagePlace
from virtual_stain.counting.quality import Quality
from virtual_stain.counting.resample import AreaResampler
from virtual_stain.counting.slide_stain import SlideStain
from virtual_stain.errors import ResolutionError
from virtual_stain.geometry import Box, Points, Size
from virtual_stain.markers import Marker
from virtual_stain.slides.resolution import READING_RANGE, require_mpp, what_is_odd
from virtual_stain.slides.slide import Slide, SlideRef, open_slide
from virtual_stain.slides.tissue import TissueMap
from virtual_stain.slides.unknown import UnknownArea

_LEVEL_MPP = 0.26  # a coarser level than the scan is read only up to this pixel size, µm/px: nuclei lose nothing
_WINDOWS_PER_TASK = 4  # so that a slide is not opened for every window


@dataclass(frozen=True, slots=True)
class CountWindow:
    """One window in pixels of the level that is read; the core is half-open."""

    core_x: int
    core_y: int
    core_x1: int
    core_y1: int


@dataclass(frozen=True, slots=True)
class WindowPlan:
    """How a slide is cut; picklable."""

    level: int
    mpp: tuple[float, float]
    """µm per pixel of that level, x and y."""
    scale: tuple[float, float]
    """px0 per pixel of that level."""
    extent: tuple[int, int, int, int]
    """The scan in pixels of that level: x, y, x1, y1."""
    margin: tuple[int, int]
    """Context on every side, pixels of that level."""
    windows: tuple[CountWindow, ...]


@dataclass(frozen=True, slots=True, eq=False)
class FoundCells:
    """The cells of one core, in level-0 px of the slide."""

    cells: Cells
    intensity: npt.NDArray[np.uint8]
    """uint8[N]: 0, 1, 2, 3 for 0, 1+, 2+, 3+."""
    columns: dict[str, npt.NDArray[np.float32]]
    """float32[N] each: what was measured beside; NaN where there is nothing to measure."""
    rings: tuple[Points | None, ...]
    """Outline of every cell, float64[M, 2] px0, open, positive shoelace; None where another detector gave a point."""
    quality: Quality
    """Of the window, its margin included."""

    def select(self, which: npt.NDArray[np.bool_]) -> FoundCells:
        """The cells that bool[N] picks."""
        if which.all():
            return self
        return replace(
            self,
            cells=self.cells.select(which),
            intensity=self.intensity[which],
            columns={name: values[which] for name, values in self.columns.items()},
            rings=tuple(ring for ring, taken in zip(self.rings, which.tolist(), strict=True) if taken),
        )


@dataclass(frozen=True, slots=True)
class WindowTask:
    """What a worker needs; picklable."""

    slide: SlideRef
    plan: WindowPlan
    windows: tuple[CountWindow, ...]
    marker: Marker
    stain: SlideStain
    settings: CountingSettings
    given: GivenCells | None = None
    """Cells of another detector in these windows, px0; None: they are looked for."""
    blank: UnknownArea | None = None
    """What no camera took in these windows; None: nothing."""


def plan_windows(slide: Slide, tissue: TissueMap | None, settings: CountingSettings) -> WindowPlan:
    """Windows row by row over `slide.bounds`; with `tissue`, only those whose core has any.

    Raises ResolutionError when the pixel size is missing or too coarse to count.
    """
    mpp = require_mpp(slide, READING_RANGE)
    if max(mpp.x, mpp.y) > settings.max_mpp:
        raise ResolutionError(
            f"{slide.path}: expected pixels of at most {settings.max_mpp} µm to count nuclei. "
            f"Received: {mpp}{what_is_odd(slide)}",
            hint="Give the right pixel size with --mpp, or scan at a higher resolution.",
        )
    level = _level(slide, (mpp.x, mpp.y))
    sx, sy = slide.level_scales[level]
    level_mpp = mpp.x * sx, mpp.y * sy
    period = AreaResampler.towards(level_mpp, settings.work_mpp).period
    b, size = slide.bounds, slide.level_sizes[level]
    extent = (
        max(0, math.floor(b.x / sx)),
        max(0, math.floor(b.y / sy)),
        min(size.width, math.ceil(b.x1 / sx)),
        min(size.height, math.ceil(b.y1 / sy)),
    )
    step = tuple(max(1, round(settings.window_um / m / p)) * p for m, p in zip(level_mpp, period, strict=True))
    margin = tuple(math.ceil(settings.margin_um / m / p) * p for m, p in zip(level_mpp, period, strict=True))
    plan = WindowPlan(level, level_mpp, (sx, sy), extent, (margin[0], margin[1]), ())
    windows = tuple(w for w in _grid(extent, (step[0], step[1])) if tissue is None or tissue.any_in(_core(plan, w)))
    return replace(plan, windows=windows)


def _level(slide: Slide, mpp: tuple[float, float]) -> int:
    """The coarsest level that is fine enough and whose pixels are whole numbers of level-0 pixels."""
    usable = [0]
    for level, (sx, sy) in enumerate(slide.level_scales):
        if max(mpp[0] * sx, mpp[1] * sy) <= _LEVEL_MPP and sx.is_integer() and sy.is_integer():
            usable.append(level)
    return max(usable)


def _grid(extent: tuple[int, int, int, int], step: tuple[int, int]) -> Iterator[CountWindow]:
    """Cores side by side, row by row."""
    x, y, x1, y1 = extent
    for top in range(y, y1, step[1]):
        for left in range(x, x1, step[0]):
            yield CountWindow(left, top, min(left + step[0], x1), min(top + step[1], y1))


def _core(plan: WindowPlan, window: CountWindow) -> Box:
    """In level-0 px."""
    sx, sy = plan.scale
    width, height = window.core_x1 - window.core_x, window.core_y1 - window.core_y
    return Box(window.core_x * sx, window.core_y * sy, width * sx, height * sy)


def _read_part(plan: WindowPlan, window: CountWindow) -> tuple[int, int, int, int]:
    """x, y, x1, y1 of the core with its margin, as far as it was scanned, in pixels of the level."""
    return (
        max(plan.extent[0], window.core_x - plan.margin[0]),
        max(plan.extent[1], window.core_y - plan.margin[1]),
        min(plan.extent[2], window.core_x1 + plan.margin[0]),
        min(plan.extent[3], window.core_y1 + plan.margin[1]),
    )


def _seen(plan: WindowPlan, window: CountWindow) -> Box:
    """The same in level-0 px."""
    x, y, x1, y1 = _read_part(plan, window)
    return Box(x * plan.scale[0], y * plan.scale[1], (x1 - x) * plan.scale[0], (y1 - y) * plan.scale[1])


def window_tasks(
    slide: SlideRef,
    plan: WindowPlan,
    marker: Marker,
    stain: SlideStain,
    settings: CountingSettings,
    given: GivenCells | None = None,
    blank: UnknownArea | None = None,
) -> list[WindowTask]:
    """The plan's windows in their order, several to a task; with `given`, only those that hold any of them. What
    `blank` names is read as white."""
    windows = (plan if given is None else windows_with(given, plan)).windows
    tasks = []
    for i in range(0, len(windows), _WINDOWS_PER_TASK):
        part = windows[i : i + _WINDOWS_PER_TASK]
        own = None
        if given is not None:
            at = given.xy / plan.scale
            own = given.select(np.logical_or.reduce([_in_core(at, window) for window in part]))
        near = (
            None
            if blank is None
            else blank.cropped(Box.around(np.concatenate([_seen(plan, w).corners() for w in part])))
        )
        tasks.append(WindowTask(slide, plan, part, marker, stain, settings, own, near))
    return tasks


def windows_with(given: GivenCells, plan: WindowPlan) -> WindowPlan:
    """Only the windows that hold any of the cells."""
    at = given.xy / plan.scale
    return replace(plan, windows=tuple(w for w in plan.windows if _in_core(at, w).any()))


def _in_core(at: Points, window: CountWindow) -> npt.NDArray[np.bool_]:
    """bool[N]: points of the level's pixels. In whole-slide coordinates, so that neighbours decide alike."""
    inside = (at[:, 0] >= window.core_x) & (at[:, 0] < window.core_x1)
    return np.asarray(inside & (at[:, 1] >= window.core_y) & (at[:, 1] < window.core_y1), np.bool_)


def count_windows(task: WindowTask) -> list[FoundCells]:
    """Reads and counts the windows of a task. Raises SlideError naming file and region."""
    with open_slide(task.slide) as slide:
        return [count_window(slide, task, window) for window in task.windows]


def count_window(slide: Slide, task: WindowTask, window: CountWindow) -> FoundCells:
    """The cells whose centroids lie in the core of one window."""
    plan = task.plan
    x, y, x1, y1 = _read_part(plan, window)
    image = slide.read_patch(plan.level, x, y, Size(x1 - x, y1 - y)).image
    if task.blank is not None:
        image = task.blank.blanked(image, _seen(plan, window))
    corner = np.array([x, y], np.float64)
    if task.given is not None:
        own = task.given.select(_in_core(task.given.xy / plan.scale, window))
        place = ImagePlace(corner, plan.scale)
        counted = count_given(image, plan.mpp, task.marker, task.stain, task.settings, own, place)
        return _found(counted, np.ones(len(own), np.bool_), own.xy, own.rings)
    counted = count_image(image, plan.mpp, task.marker, task.stain, task.settings)
    at = counted.measured.xy + corner
    inside = _in_core(at, window)
    polygon, factor = counted.measured.nuclei.polygon, counted.measured.factor
    rings = tuple((polygon[i] * factor + corner) * plan.scale for i in np.flatnonzero(inside).tolist())
    return _found(counted, inside, (at * plan.scale)[inside], rings)


def _found(counted: Counted, inside: npt.NDArray[np.bool_], xy: Points, rings: tuple[Points | None, ...]) -> FoundCells:
    measured = counted.measured
    columns = {
        "hematoxylin_od": measured.hematoxylin_od,
        "max_dab_od": measured.max_dab_od,
        "elongation": measured.elongation,
        "circularity": measured.circularity,
        "edge_score": measured.edge_score,
        **counted.extra,
    }
    return FoundCells(
        cells=counted.cells.select(inside).moved(xy),
        intensity=counted.intensity[inside],
        columns={name: values[inside] for name, values in columns.items()},
        rings=rings,
        quality=counted.quality,
    )
