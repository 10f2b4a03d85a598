"""The flow in one picture, made of a demo's real output."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from virtual_stain.counting.cells import CellClass, Cells
from virtual_stain.files import replacing
from virtual_stain.labels.store import TileStore
from virtual_stain.phantom.truth import read_truth
from virtual_stain.slides.slide import SlideRef, open_slide
from virtual_stain.workflows.demo.run import DemoResult
from virtual_stain.workflows.demo.truth_checks import read_predictions

_OVERVIEW_MPP = 4.0
_DOT_PX = 4
_TITLE_POINTS, _TEXT_POINTS = 15, 13  # legible where the picture is 900 px wide on a page
_COLOURS = {CellClass.POSITIVE: "#d62728", CellClass.NEGATIVE: "#1f77ff"}

Rgb = npt.NDArray[np.uint8]


def write_flow_picture(result: DemoResult) -> Path:
    """Writes `out`/flow.png: six panels of the first held-out patient, from the slides to the scored slide."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    pair = result.readings[0].pair
    figure = Figure(figsize=(18, 11), layout="constrained")
    FigureCanvasAgg(figure)
    # the scored slide holds two panels and a legend of its own: it needs the width
    rows = ("11223344", "55566666")
    panels = figure.subplot_mosaic("\n".join(rows), height_ratios=(1, 1.3))
    axes = [panels[name] for name in "123456"]
    slides = result.out / "cohort" / "slides"
    work = result.out / "records" / "work" / pair
    _show(axes[0], _overview(slides / f"{pair}_he.tiff"), "1  H&E slide")
    _show(axes[1], _overview(slides / f"{pair}_ihc.tiff"), "2  IHC slide, neighbouring section")
    overlay = _read(work / "overlay.jpg")  # checkerboard above, false colours below
    _show(axes[2], overlay[: overlay.shape[0] // 2], "3  Registered: IHC warped onto the H&E")
    _tile(axes[3], work / "tiles.h5")
    _scatter(axes[4], result)
    _show(axes[5], _read(result.out / "scores" / f"{pair}_he.heatmap.png"), "6  H&E slide scored by the exported model")
    path = result.out / "flow.png"
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)
    return path


def _overview(path: Path) -> Rgb:
    with open_slide(SlideRef(path)) as slide:
        return slide.overview(mpp=_OVERVIEW_MPP).image


def _read(path: Path) -> Rgb:
    data = np.frombuffer(path.read_bytes(), np.uint8)
    return np.asarray(cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB), np.uint8)


def _show(axis: Any, image: Rgb, title: str) -> None:
    axis.imshow(image)
    axis.set_title(title, fontsize=_TITLE_POINTS, loc="left")
    axis.set_axis_off()


def _tile(axis: Any, path: Path) -> None:
    """The labelled tile whose ratio is nearest to a third, with its counted tumour cells."""
    with TileStore(path) as store:
        table = store.table()
        total = table["positive"] + table["negative"]
        ratio = np.where((table["weight"] > 0) & (total > 0), table["positive"] / np.maximum(total, 1), np.inf)
        index = int(np.argmin(np.abs(ratio - 1 / 3)))
        image, cells = store.jpeg(index, "ihc"), store.cells(index)
    data = np.frombuffer(image, np.uint8)
    _show(axis, np.asarray(cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB), np.uint8), "")
    _dots(axis, cells)
    found = f"{table['positive'][index]} of {total[index]} cells = {ratio[index]:.0%}"
    axis.set_title(f"4  Counted: {found}", fontsize=_TITLE_POINTS, loc="left")
    axis.text(
        0, -0.02, "red: positive, blue: negative", transform=axis.transAxes, va="top", fontsize=_TEXT_POINTS
    )  # fmt: skip


def _dots(axis: Any, cells: Cells) -> None:
    for cell_class, colour in _COLOURS.items():
        xy = cells.xy[cells.tumour & (cells.cell_class == cell_class)]
        axis.scatter(xy[:, 0] - 0.5, xy[:, 1] - 0.5, s=_DOT_PX**2, facecolors="none", edgecolors=colour, linewidths=1)


def _scatter(axis: Any, result: DemoResult) -> None:
    for pair, readings in sorted(read_predictions(result.out / "run" / "predictions.csv").items()):
        tiles = read_truth(result.out / "cohort", pair).tiles
        index = [i for i in np.flatnonzero(tiles.usable) if (tiles.col[i], tiles.row[i]) in readings]
        read = [readings[int(tiles.col[i]), int(tiles.row[i])] for i in index]
        axis.scatter(100 * tiles.ratio[index], 100 * np.array(read), s=14, alpha=0.7, label=pair)
    axis.plot([0, 100], [0, 100], color="grey", linewidth=0.8)
    axis.set(xlim=(0, 90), ylim=(0, 90), aspect="equal")
    axis.set_xlabel("true Ki67 of the tile, %", fontsize=_TEXT_POINTS)
    axis.set_ylabel("read from H&E, %", fontsize=_TEXT_POINTS)
    axis.tick_params(labelsize=_TEXT_POINTS)
    axis.set_title("5  Held-out patients: read against true", fontsize=_TITLE_POINTS, loc="left")
    axis.legend(title="patient", loc="upper left", fontsize=_TEXT_POINTS, title_fontsize=_TEXT_POINTS)
