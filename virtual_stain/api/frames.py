"""Tables and pictures of results: pandas and Matplotlib, loaded when they are asked for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes


def read_frame(path: Path) -> pandas.DataFrame:
    """Reads a CSV of this program as a table. Names stay text; empty fields become missing values."""
    import pandas

    return pandas.read_csv(path, dtype=dict.fromkeys(("slide", "pair", "patient", "flags", "reason"), str))


def show_picture(path: Path, axes: Axes | None, title: str) -> Axes:
    """Draws a picture file on Matplotlib axes. Without axes, new ones are made."""
    import matplotlib.pyplot as plt

    target = axes if axes is not None else plt.subplots(figsize=(8, 6), layout="constrained")[1]
    target.imshow(plt.imread(path))
    target.set_title(title)
    target.set_axis_off()
    return target


def only(values: dict[str, Any], name: str | None, what: str) -> str:
    """Returns `name`, or the only key if no name is given. Raises ValueError, which lists the keys."""
    if name is None and len(values) == 1:
        return next(iter(values))
    if name in values:
        return name
    raise ValueError(f"{what}: expected one of {', '.join(values)}. Received: {name}")
