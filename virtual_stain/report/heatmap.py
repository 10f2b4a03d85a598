"""Pictures of a scored slide: the overview beside the readings on it, with scale bar and legend; a histogram."""

from __future__ import annotations

import dataclasses
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator
from PIL import Image

from virtual_stain.geometry import Box, scale_bar_um
from virtual_stain.markers import Marker
from virtual_stain.report.colours import FAILED_RGB, UNUSED_RGB, ColourScale
from virtual_stain.report.headline import headline_text
from virtual_stain.report.notes import RESEARCH_USE
from virtual_stain.report.report import SlideReport, reading_json
from virtual_stain.scoring.score import MarkerScores
from virtual_stain.slides.slide import Overview

OVERVIEW_PX = 1400
"""Longer side of one panel; more shows nothing that a tile's colour could."""
_OPACITY = 0.65
_UNUSED_OPACITY = 0.35
_PALENESS = 0.6  # contrast that is left of the picture below the colours
_DPI = 150
_COMPRESSION = 3  # of zlib's 9: three times as fast as its usual 6, 4 % larger


@dataclass(frozen=True, eq=False)
class _Canvas:
    """The overview, reduced, and how to get there."""

    image: npt.NDArray[np.uint8]
    px_from_px0: tuple[float, float]
    origin_px0: tuple[float, float]
    um_per_px: float

    def rectangle(self, box: Box) -> tuple[float, float, float, float]:
        x, y = (box.x - self.origin_px0[0]) * self.px_from_px0[0], (box.y - self.origin_px0[1]) * self.px_from_px0[1]
        return x, y, box.width * self.px_from_px0[0], box.height * self.px_from_px0[1]


def heatmap_png(report: SlideReport, overview: Overview) -> bytes:
    """The overview and, per marker, the readings of all tissue tiles as colours; frames: the top tiles.

    `overview`: a picture of the slide of at most OVERVIEW_PX on its longer side.
    """
    canvas, shown = _canvas(report, overview), report.shown
    height, width = canvas.image.shape[:2]
    panels = 1 + len(report.readings)
    beside = height >= width * 0.8  # tall slides beside each other, wide ones below each other
    columns, rows = (panels, 1) if beside else (1, panels)
    panel_inches = 6.0
    size = (
        panel_inches * columns * min(1.0, width / height) + 2.2,
        panel_inches * rows * min(1.0, height / width) + 1.5,
    )
    figure = Figure(figsize=size, dpi=_DPI, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    figure.suptitle(_drawable(report.slide.name), fontsize=11)
    _panel(axes[0], canvas, "H&E")
    for axis, marker in zip(axes[1:], report.readings, strict=True):
        scale = ColourScale(shown)
        # one reading a line: beside each other they would be wider than a narrow slide
        title = headline_text(marker.value, reading_json(report, marker)).replace("), top ", "),\ntop ")
        _panel(axis, _painted(canvas, report, marker, scale), f"predicted: {title}")
        _frame(axis, canvas, report, marker)
        mappable = ScalarMappable(PowerNorm(scale.GAMMA, 0, scale.top * shown.factor), "viridis")
        # one scale beside both panels keeps them aligned; several markers have a scale each
        beside_axes = axes if panels == 2 else axis
        ticks = [bound * shown.factor for bound in scale.bounds]
        label = f"{shown.of(marker)}, {shown.unit} (one scale for all slides)"
        figure.colorbar(mappable, ax=beside_axes, label=label, shrink=0.8, ticks=ticks, format="{x:g}")
    keys = [Patch(color=_mpl(UNUSED_RGB), alpha=_UNUSED_OPACITY, label="tissue without a reading")]
    keys += [Patch(facecolor="none", edgecolor="black", label="highest tiles")]
    if report.score.failed:
        keys.append(Patch(color=_mpl(FAILED_RGB), alpha=_OPACITY, label="could not be read"))
    figure.legend(
        handles=keys,
        loc="outside lower center",
        ncols=3,
        fontsize=8,
        frameon=False,
        title=RESEARCH_USE,
        title_fontsize=8,
    )
    return _png(figure)


def histogram_png(report: SlideReport, marker: Marker) -> bytes | None:
    """Distribution of the used tiles' readings; None without any."""
    scores, reading, shown = report.score.markers[marker], report.readings[marker], report.shown
    values = scores.value[scores.used]
    if reading.global_ratio is None or reading.top_mean is None:
        return None
    scale = ColourScale(shown)
    top = _histogram_top(float(values.max()), scale)
    figure = Figure(figsize=(6.4, 2.6), dpi=_DPI, layout="constrained")
    axis = figure.subplots()
    edges = np.linspace(0, top, 21)
    counts, _ = np.histogram(values, edges)
    middles = (edges[1:] + edges[:-1]) / 2
    axis.bar(
        middles * shown.factor,
        counts,
        width=edges[1] * shown.factor,
        color=scale.rgb(middles) / 255,
        edgecolor="white",
        lw=0.5,
    )
    whole = "global ratio" if shown.definition.is_ratio else "over all tissue"
    for value, text, style in ((reading.global_ratio, whole, "-"), (reading.top_mean, "top mean", "--")):
        axis.axvline(value * shown.factor, color="black", ls=style, lw=1.2, label=f"{text} {shown.text(value)}")
    axis.set(xlabel=f"{shown.of(marker)}, {shown.unit}", ylabel="tiles", xlim=(0, top * shown.factor))
    axis.spines[["top", "right"]].set_visible(False)
    axis.yaxis.set_major_locator(MaxNLocator("auto", integer=True))  # tiles are whole
    axis.legend(fontsize=8, frameon=False)
    return _png(figure)


def _histogram_top(highest: float, scale: ColourScale) -> float:
    """End of the axis: the first bound of the classes, from the fifth on, that holds every value."""
    return next((bound for bound in scale.bounds[4:] if highest <= bound), highest)


def _canvas(report: SlideReport, overview: Overview) -> _Canvas:
    matrix = overview.px0_from_ov.inverse().matrix
    x, y = overview.px0_from_ov.apply([0.0, 0.0])
    factor = (float(matrix[0, 0]), float(matrix[1, 1]))
    return _Canvas(overview.image, factor, (float(x), float(y)), report.score.mpp.x / factor[0])


def _pale(canvas: _Canvas) -> _Canvas:
    """Light grey: on a stained picture the colours would mix with the stain and no longer match the legend."""
    grey = canvas.image.mean(axis=-1, keepdims=True)
    pale = np.repeat(255 - (255 - grey) * _PALENESS, 3, axis=-1)
    return dataclasses.replace(canvas, image=pale.astype(np.uint8))


def _panel(axis: Axes, canvas: _Canvas, title: str) -> None:
    axis.imshow(canvas.image, interpolation="nearest")
    axis.set_title(title, fontsize=10)
    axis.set_axis_off()
    _scale_bar(axis, canvas)


def _scale_bar(axis: Axes, canvas: _Canvas) -> None:
    height, width = canvas.image.shape[:2]
    length_um = scale_bar_um(width * canvas.um_per_px)
    length = length_um / canvas.um_per_px
    x, y = width * 0.03, height * 0.965
    axis.add_patch(Rectangle((x, y), length, max(height * 0.006, 2.0), color="black", lw=0))
    text = f"{length_um / 1000:g} mm" if length_um >= 1000 else f"{length_um:g} µm"
    axis.text(
        x + length / 2,
        y - height * 0.008,
        text,
        ha="center",
        va="bottom",
        fontsize=8,
        bbox={"facecolor": "white", "alpha": 0.75, "lw": 0, "pad": 1},
    )


def _painted(canvas: _Canvas, report: SlideReport, marker: Marker, scale: ColourScale) -> _Canvas:
    """The tiles' colours over the pale picture. Blended here: matplotlib does it four times slower."""
    scores, tiles, card = report.score.markers[marker], report.score.tiles, report.score.card
    pale = _pale(canvas)
    # overlapping windows: each paints the step around its centre, so that neighbours do not hide one another
    share = min(1.0, card.tiling.step_um / card.tiling.window_um)
    colours = scale.rgb(np.nan_to_num(scores.value))
    image = pale.image.copy()
    for index, tile in enumerate(tiles):
        x, y, w, h = canvas.rectangle(tile.box)
        x0, y0 = x + w * (1 - share) / 2, y + h * (1 - share) / 2
        area = np.s_[
            max(0, round(y0)) : max(0, round(y0 + h * share)), max(0, round(x0)) : max(0, round(x0 + w * share))
        ]
        if scores.used[index]:
            colour, opacity = colours[index], _OPACITY
        elif index in report.score.failed:
            colour, opacity = FAILED_RGB, _OPACITY
        else:
            colour, opacity = UNUSED_RGB, _UNUSED_OPACITY
        blended = pale.image[area] * (1 - opacity) + np.asarray(colour, np.float64) * opacity
        image[area] = blended.round().astype(np.uint8)
    return dataclasses.replace(canvas, image=image)


def _frame(axis: Axes, canvas: _Canvas, report: SlideReport, marker: Marker) -> None:
    height, width = canvas.image.shape[:2]
    for index in top_tiles(report.score.markers[marker], report.readings[marker].top_n):
        x, y, w, h = canvas.rectangle(report.score.tiles[index].box)
        axis.add_patch(Rectangle((x, y), w, h, fill=False, edgecolor="black", lw=1.4))
        axis.add_patch(Rectangle((x, y), w, h, fill=False, edgecolor="white", lw=0.7))
    axis.set(xlim=(0, width), ylim=(height, 0))


def top_tiles(scores: MarkerScores, count: int) -> list[int]:
    """Indices of the used tiles with the highest readings, highest first; equal ones in grid order."""
    used = np.flatnonzero(scores.used)
    order = np.argsort(-scores.value[used], kind="stable")
    return [int(i) for i in used[order][:count]]


def _mpl(rgb: tuple[int, int, int]) -> tuple[float, float, float]:
    return rgb[0] / 255, rgb[1] / 255, rgb[2] / 255


def _drawable(text: str) -> str:
    """Characters that the font lacks as ?, instead of boxes and a warning for each."""
    from matplotlib import font_manager

    known = FT2Font(font_manager.findfont(font_manager.FontProperties())).get_charmap()
    # $ would start a formula
    return "".join(c if ord(c) in known else "?" for c in text).replace("$", r"\$")


def _png(figure: Figure) -> bytes:
    pictures = [image for axis in figure.axes for image in axis.get_images()]
    # the layout is found by drawing once; a picture does not change it and is slow to draw
    for image in pictures:
        image.set_visible(False)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for image in pictures:
        image.set_visible(True)
    drawn: Any = FigureCanvasAgg(figure)  # its methods have no types
    drawn.draw()
    stream = io.BytesIO()
    rgb = np.asarray(drawn.buffer_rgba())[..., :3]
    Image.fromarray(np.ascontiguousarray(rgb)).save(stream, "PNG", compress_level=_COMPRESSION, dpi=(_DPI, _DPI))
    return stream.getvalue()
