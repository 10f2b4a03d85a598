"""Options of the verbs that take many slides."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click


@dataclass(frozen=True, slots=True)
class Many:
    """The options of every verb that takes many slides."""

    scheduler: str | None
    fail_fast: bool
    excel: bool


def many_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --scheduler, --fail-fast and --excel and passes them on as one `many: Many`."""

    @click.option(
        "--scheduler",
        metavar="URL",
        help="Dask scheduler: tcp://host:8786, or slurm:partition=P,cores=N [default: this machine].",
    )
    @click.option("--fail-fast", is_flag=True, help="Begin nothing more after the first that fails.")
    @click.option("--excel", is_flag=True, help="Write the table over all so that a spreadsheet shows umlauts right.")
    @functools.wraps(function)
    def wrapper(*args: Any, scheduler: str | None, fail_fast: bool, excel: bool, **kwargs: Any) -> Any:
        return function(*args, many=Many(scheduler, fail_fast, excel), **kwargs)

    return wrapper


def origin_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --geojson-origin."""
    return click.option(
        "--geojson-origin",
        type=click.Choice(["bounds", "slide"]),
        default="bounds",
        show_default=True,
        help="Where GeoJSON counts from: the corner of the scan (as QuPath does) or of the whole slide.",
    )(function)
