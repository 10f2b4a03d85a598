"""A trained model of tumour regions, brought by the user: `--region-model MODULE:NAME`."""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from virtual_stain.counting.region import Region
from virtual_stain.errors import InputError, VirtualStainError
from virtual_stain.geometry import Points
from virtual_stain.slides.slide import Slide

_NAMES_SHOWN = 12


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
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise InputError(
            f"{expected} Received: {where!r} ({error})", hint="Set PYTHONPATH to the folder that holds the module."
        ) from error
    except Exception as error:
        raise InputError(f"{expected} Received: {where!r}, which raised {type(error).__name__}: {error}") from error
    if not hasattr(module, name):
        place = getattr(module, "__file__", None) or module.__name__
        raise InputError(f"{expected} Received: {where!r} (no {name} in {place})", hint=_instead(module))
    found = getattr(module, name)
    is_factory = callable(found) and not callable(getattr(found, "region", None))
    model = _asked(where, found) if is_factory else found
    if isinstance(model, type):
        model = _asked(where, model)
    return check_region_model(model, where)


def _instead(module: ModuleType) -> str:
    """What the module could have been meant for; and another of the same name may have been found instead."""
    public = [n for n in dir(module) if not n.startswith("_") and not isinstance(getattr(module, n), ModuleType)]
    shown = ", ".join(public[:_NAMES_SHOWN]) + (" …" if len(public) > _NAMES_SHOWN else "")
    has = f"It has {shown}." if public else "It has no names."
    return f"{has} Is it the wrong module? Set PYTHONPATH to the folder that holds yours."


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
    """The region of a slide, asked once about its corners: a model that fails or answers in another shape is refused
    before anything is counted, and whenever it does so later. Raises InputError."""
    region = CheckedRegion(model.name, _asked(model.name, lambda: model.region(slide)))
    region.contains(np.asarray(slide.bounds.corners(), np.float64))
    return region


@dataclass(frozen=True, slots=True)
class CheckedRegion:
    """A model's region, whose every answer is looked at."""

    model: str
    region: object

    def contains(self, points_px0: Points) -> npt.NDArray[np.bool_]:
        contains = getattr(self.region, "contains", None)
        answer = _asked(self.model, lambda: contains(points_px0)) if callable(contains) else None
        if not isinstance(answer, np.ndarray) or answer.dtype != np.bool_ or answer.shape != (len(points_px0),):
            received = type(self.region).__name__ if answer is None else f"{getattr(answer, 'dtype', type(answer))}"
            raise InputError(
                f"Region model {self.model}: expected a region whose contains(float64[N, 2]) returns bool[N]. "
                f"Received: {received}"
            )
        return answer


T = TypeVar("T")


def _asked(model: str, question: Callable[[], T]) -> T:
    """The answer of code that is not ours. Raises InputError in its name for whatever it raises."""
    try:
        return question()
    except VirtualStainError:
        raise
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        raise InputError(
            f"Region model {model}: expected an answer. Received: {type(error).__name__}: {error}",
            hint=f"It was raised in {where.filename}, line {where.lineno}.",
        ) from error
