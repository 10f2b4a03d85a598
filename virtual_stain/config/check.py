"""Small checks for the sections' `__post_init__`: one sentence each, with the field's name."""

from __future__ import annotations

import math


def require_range(name: str, value: float, low: float, high: float) -> None:
    """Raise ValueError unless low ≤ value ≤ high (NaN never is)."""
    if not (math.isfinite(value) and low <= value <= high):
        raise ValueError(f"{name}: expected {low} to {high}. Received: {value}")


def require_one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise ValueError unless value is one of `allowed`."""
    if value not in allowed:
        raise ValueError(f"{name}: expected one of {', '.join(allowed)}. Received: {value!r}")
