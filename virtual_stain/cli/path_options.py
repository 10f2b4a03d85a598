"""Options about the two ways from H&E to a value."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click


def path_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --path, --indirect-model and --virtual-slide and passes them on as one `way`, by the names of
    `score_path.addition_of_path`."""

    @click.option(
        "--path", type=click.Choice(["direct", "indirect", "both"]), help="Way to the value [default: the model's]."
    )
    @click.option("--indirect-model", help="Second model of --path both: a bundle folder or grpc://host:8500/NAME.")
    @click.option("--virtual-slide", is_flag=True, help="Also <stem>.<marker>.virtual.ome.tif, of an indirect model.")
    @functools.wraps(function)
    def wrapper(*args: Any, path: str | None, indirect_model: str | None, virtual_slide: bool, **kwargs: Any) -> Any:
        way = {"path": path, "indirect_model": indirect_model, "virtual_slide": virtual_slide}
        return function(*args, way=way, **kwargs)

    return wrapper
