"""stain.png: what the stain of a slide was estimated from, and what came out."""

from __future__ import annotations

import io
import textwrap

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from virtual_stain.config.counting import CountingSettings
from virtual_stain.counting.optical_density import PUBLISHED_DAB, PUBLISHED_HEMATOXYLIN, Vector
from virtual_stain.counting.populations import Populations
from virtual_stain.counting.stain import FLAG_SENTENCES, StainEvidence

_FAINT_OD = 0.15  # summed: below it a pixel has no hue to draw
_BINS = 60
_NAME_SHARE = 0.35  # of the axis, that the longest name of a cut-off takes
_LINE = 130  # letters of a flag's sentence that fit on a line


def draw_stain(evidence: StainEvidence, settings: CountingSettings, title: str) -> bytes:
    """PNG: the hue of the stained pixels with both vectors, and the nuclear DAB with the class limits."""
    figure = Figure(figsize=(10, 4.8), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    _hues(left, evidence)
    _densities(right, evidence, settings)
    flags = [FLAG_SENTENCES.get(f, f) for f in evidence.stain.flags]
    notes = "".join(f"\n{textwrap.fill(f, _LINE)}" for f in flags)
    figure.suptitle(title + notes, fontsize=9, color="#a02020" if flags else "black")
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def _plane(vector: Vector) -> tuple[float, float]:
    """Where a colour lies whatever its strength: shares of red and blue in the optical density."""
    total = sum(vector)
    return vector[0] / total, vector[2] / total


def _hues(axes: Axes, evidence: StainEvidence) -> None:
    stain = evidence.stain
    total = evidence.density.sum(axis=1)
    seen = total > _FAINT_OD
    if seen.any():
        share = evidence.density[seen] / total[seen, None]
        axes.hexbin(
            share[:, 0], share[:, 2], gridsize=60, extent=(0, 0.7, 0, 0.7), bins="log", cmap="Greys", linewidths=0
        )
    marks = (
        ("hematoxylin", stain.hematoxylin, PUBLISHED_HEMATOXYLIN, "#3355bb"),
        ("DAB", stain.dab, PUBLISHED_DAB, "#8a4b10"),
    )
    for name, vector, published, colour in marks:
        axes.plot(*_plane(vector), "o", color=colour, markersize=9, label=name)
        axes.plot(*_plane(published), "o", color=colour, markersize=9, fillstyle="none", label=f"{name}, published")
    axes.set(xlim=(0, 0.7), ylim=(0, 0.7), xlabel="red share of the optical density", ylabel="blue share")
    axes.set_title("hue of the stained pixels", fontsize=9)
    glass = tuple(np.clip(np.array(stain.background) / 255, 0, 1))
    axes.text(
        0.03, 0.03, "glass", transform=axes.transAxes, bbox={"facecolor": glass, "edgecolor": "black"}, fontsize=8
    )
    axes.legend(fontsize=7, loc="upper right")


def _densities(axes: Axes, evidence: StainEvidence, settings: CountingSettings) -> None:
    od = evidence.dab_od
    if len(od) == 0:
        axes.text(0.5, 0.5, "read on the membrane:\nno nuclear threshold", ha="center", va="center", fontsize=9)
        axes.set_axis_off()
        return
    top = max(1.0, float(np.percentile(od, 99.5)) * 1.1)
    stain = evidence.stain
    axes.hist(np.clip(od, -0.05, top), bins=_BINS, range=(-0.05, top), color="#b08050", log=True)
    axes.axvspan(*stain.doubtful_od, color="#888888", alpha=0.25, linewidth=0, label="doubtful")
    if evidence.populations is not None:
        _populations(axes, evidence.populations, top)
    _cut_offs(axes, stain.positive_od, settings, top)
    axes.set(xlabel="mean nuclear DAB, optical density; positive from the solid line", ylabel="nuclei of the sample")
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3, frameon=False)


def class_limits(positive_od: float, settings: CountingSettings) -> list[tuple[float, str]]:
    """(DAB density, what begins there), ascending. A class that no nucleus can have is named as such.

    The cut-off of positive follows the slide. Where it reaches that of 2+, no nucleus is 1+.
    """
    two, three = settings.intensity_2_od, settings.intensity_3_od
    if positive_od < two:
        return (
            [(positive_od, "1+ = positive"), (two, "2+"), (three, "3+")]
            if two < three
            else [(positive_od, "1+ = positive"), (two, "3+; no nucleus is 2+")]
        )
    if positive_od < three:
        return [(positive_od, "2+ = positive; no nucleus is 1+"), (three, "3+")]
    return [(positive_od, "3+ = positive; no nucleus is 1+ or 2+")]


def _cut_offs(axes: Axes, positive_od: float, settings: CountingSettings, top: float) -> None:
    """A line for each, its name beside it; a name that would meet the one before stands a row lower."""
    row, before = 0, -np.inf
    for at, name in class_limits(positive_od, settings):
        row = row + 1 if at - before < _NAME_SHARE * top else 0
        before = at
        axes.axvline(at, color="black", linestyle="-" if at == positive_od else ":")
        right = at > 0.6 * top
        axes.annotate(
            name, (at, 0.98 - 0.07 * row), xycoords=("data", "axes fraction"), xytext=(-3 if right else 3, 0),
            textcoords="offset points", ha="right" if right else "left", va="top", fontsize=8,
            bbox={"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 1},
        )  # fmt: skip


def _populations(axes: Axes, fit: Populations, top: float) -> None:
    """The curves that the cut-off follows from, in nuclei per bar."""
    at = np.linspace(-0.05, top, 400)
    per_bar = fit.nuclei * (top + 0.05) / _BINS
    low = axes.get_ylim()[0]
    negative, positive = (density * per_bar for density in fit.densities(at))
    for name, nuclei, colour in (("negatives", negative, "#3355bb"), ("positives", positive, "#8a4b10")):
        axes.plot(at, np.where(nuclei > low, nuclei, np.nan), color=colour, linewidth=1.2, label=name)
