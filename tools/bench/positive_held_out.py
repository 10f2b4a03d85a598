"""The constants of the cut-off (counting/populations.py), chosen without the set that they are judged on."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from virtual_stain.config.counting import CountingSettings
from virtual_stain.counting import populations
from virtual_stain.counting.stain import cutoff_of

_GRID: dict[str, tuple[float, ...]] = {
    "_TAIL_OF_STRENGTH": (0.08, 0.11, 0.14),
    "_TAIL_WEIGHT": (4.0, 8.0),
    "_VALLEY_PRICE": (0.05, 0.1, 0.2),
    "_SHAPE": (2.0, 3.0),
}


@dataclass(frozen=True, eq=False)
class Nuclei:
    """Of one field: the DAB of all that were found, and of those with a known class."""

    dab_od: npt.NDArray[np.float32]
    known_od: npt.NDArray[np.float32]
    positive: npt.NDArray[np.bool_]


def held_out(sets: dict[str, list[Nuclei]]) -> list[str]:
    """Lines of a table: for each set the constants that are best on the others, and its own figures with them."""
    choices = list(itertools.product(*_GRID.values()))
    results = {choice: {name: _read(fields, choice) for name, fields in sets.items()} for choice in choices}
    ours = tuple(getattr(populations, name) for name in _GRID)
    lines = [
        f"held out: constants {', '.join(n.strip('_').lower() for n in _GRID)} chosen on the other sets; class right"
    ]
    for name in sets:
        best = max(choices, key=lambda c: np.mean([results[c][other][0] for other in sets if other != name]))
        right, error, bias = results[best][name]
        shipped = results[ours][name] if ours in results else _read(sets[name], ours)
        worst = min(results[c][name][0] for c in choices)
        lines.append(
            f"  {name:16s} {best}: {right:.3f}, ratio of the found {error:.1f} points (bias {bias:+.1f}); as shipped "
            f"{shipped[0]:.3f}; worst of {len(choices)} choices {worst:.3f}"
        )
    return lines


def _read(fields: list[Nuclei], choice: tuple[float, ...]) -> tuple[float, float, float]:
    """Class right, mean absolute error of the ratio of found nuclei, bias; points."""
    rows = []
    with _constants(choice):
        for field in fields:
            cutoff = cutoff_of(field.dab_od, -np.inf, 0.0, CountingSettings())
            ours = field.known_od >= (CountingSettings().positive_default_od if cutoff is None else cutoff.positive_od)
            rows.append(((ours == field.positive).mean(), 100 * (ours.mean() - field.positive.mean())))
    right, error = np.array(rows).T
    return float(right.mean()), float(np.abs(error).mean()), float(error.mean())


@contextmanager
def _constants(choice: tuple[float, ...]) -> Iterator[None]:
    before = {name: getattr(populations, name) for name in _GRID}
    try:
        for name, value in zip(_GRID, choice, strict=True):
            setattr(populations, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(populations, name, value)
