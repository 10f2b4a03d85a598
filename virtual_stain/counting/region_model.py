"""A trained model of tumour regions, brought by the user: `--region-model MODULE:NAME`."""

from __future__ import annotations

import importlib
from typing import Protocol

import numpy as np

from virtual_stain.counting.region import Region
from virtual_stain.errors import InputError
from virtual_stain.slides.slide import Slide


class RegionModel(Protocol):
    """The seam for a trained model of tumour regions: a slide in, a region out."""

    name: str
    """What summary.json names as `tumour_source`, after "region_model:"; with its version, if it has any."""

    def region(self, slide: Slide) -> Region:
        """Where the tumour is; `Region.contains` takes float64[N, 2] level-0 px and returns bool[N]."""
        ...


def load_region_model(where: str) -> RegionModel:
    """The object NAME of the Python module MODULE; a class or a function without arguments is called.

    Importing a module runs it: only models of one's own. Raises InputError for what is not there or no region model.
    """
    module_name, _, name = where.partition(":")
    expected = "Expected a region model as MODULE:NAME, a Python module that can be imported and an object in it."
    if not module_name or not name:
        raise InputError(f"{expected} Received: {where!r}")
    try:
        found = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"{expected} Received: {where!r} ({error})", hint="Set PYTHONPATH to the folder that holds the module."
        ) from error
    model = found() if callable(found) and not callable(getattr(found, "region", None)) else found
    if isinstance(model, type):
        model = model()
    return check_region_model(model, where)


def check_region_model(model: object, where: str) -> RegionModel:
    """The same object, if it has what a region model needs. Raises InputError."""
    name = getattr(model, "name", None)
    if not isinstance(name, str) or not name.strip() or not callable(getattr(model, "region", None)):
        raise InputError(
            f"{where}: expected a region model, an object with `name` (text) and `region(slide)`. "
            f"Received: {type(model).__name__}"
        )
    return model  # type: ignore[return-value]


def region_of(model: RegionModel, slide: Slide) -> Region:
    """The region of a slide, asked once about its corners: a model that answers in another shape is refused before
    anything is counted. Raises InputError."""
    region = model.region(slide)
    corners = np.asarray(slide.bounds.corners(), np.float64)
    answer = region.contains(corners) if callable(getattr(region, "contains", None)) else None
    if not isinstance(answer, np.ndarray) or answer.dtype != np.bool_ or answer.shape != (len(corners),):
        received = type(region).__name__ if answer is None else f"{getattr(answer, 'dtype', type(answer).__name__)}"
        raise InputError(
            f"Region model {model.name}: expected a region whose contains(float64[N, 2]) returns bool[N]. "
            f"Received: {received}"
        )
    return region
