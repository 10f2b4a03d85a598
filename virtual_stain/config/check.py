"""Small checks for the sections' `__post_init__`: one sentence each, with the field's name."""

from __future__ import annotations

import functools
import math
import typing
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Range:
    """What a number may be, both ends included; beside its field, as `Annotated[float, Range(0.2, 0.6)]`."""

    low: float
    high: float


def check_ranges(section: Any) -> None:
    """For `__post_init__`: raise ValueError unless every field lies in the Range of its type; None is not looked at."""
    for name, allowed in _ranges(section.__class__):
        value = getattr(section, name)
        if value is not None:
            require_range(name, value, allowed.low, allowed.high)


@functools.cache
def _ranges(section: type[object]) -> tuple[tuple[str, Range], ...]:
    hints = typing.get_type_hints(section, include_extras=True)
    return tuple((n, r) for n, hint in hints.items() for r in typing.get_args(hint)[1:] if isinstance(r, Range))


def require_range(name: str, value: float, low: float, high: float) -> None:
    """Raise ValueError unless low ≤ value ≤ high (NaN never is)."""
    if not (math.isfinite(value) and low <= value <= high):
        raise ValueError(f"{name}: expected {low} to {high}. Received: {value}")


def require_one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise ValueError unless value is one of `allowed`."""
    if value not in allowed:
        raise ValueError(f"{name}: expected one of {', '.join(allowed)}. Received: {value!r}")
