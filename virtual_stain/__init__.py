"""Reads an immunohistochemistry value of a tissue from its H&E whole-slide image. Research use only.

```
import virtual_stain as vs

report = vs.score("block7.svs", "models/ki67")
report.ratio, report.interval, report.flags
```

Everything below is loaded when it is first used: `import virtual_stain` costs milliseconds, and TensorFlow is loaded
only by what trains or scores. Numbers carry their unit in their name; a pixel size is never assumed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from virtual_stain.version import __version__

if TYPE_CHECKING:
    from virtual_stain.api.count import Count, count
    from virtual_stain.api.models import Model, load_model
    from virtual_stain.api.phantoms import Phantoms, make_phantom
    from virtual_stain.api.records import Records, build_records, open_records
    from virtual_stain.api.register import PairRegistration, load_registration, register
    from virtual_stain.api.score import Report, load_report, score
    from virtual_stain.api.slides import find_tissue, open_slide
    from virtual_stain.api.train import Run, evaluate, export, fit, load_run
    from virtual_stain.errors import VirtualStainError

_HOMES = {
    "open_slide": "api.slides",
    "find_tissue": "api.slides",
    "count": "api.count",
    "Count": "api.count",
    "register": "api.register",
    "load_registration": "api.register",
    "PairRegistration": "api.register",
    "build_records": "api.records",
    "open_records": "api.records",
    "Records": "api.records",
    "fit": "api.train",
    "load_run": "api.train",
    "Run": "api.train",
    "evaluate": "api.train",
    "export": "api.train",
    "load_model": "api.models",
    "Model": "api.models",
    "score": "api.score",
    "load_report": "api.score",
    "Report": "api.score",
    "make_phantom": "api.phantoms",
    "Phantoms": "api.phantoms",
    "VirtualStainError": "errors",
}
"""Public name → the module that holds it. Nothing else is public."""

__all__ = [
    "Count",
    "Model",
    "PairRegistration",
    "Phantoms",
    "Records",
    "Report",
    "Run",
    "VirtualStainError",
    "__version__",
    "build_records",
    "count",
    "evaluate",
    "export",
    "find_tissue",
    "fit",
    "load_model",
    "load_registration",
    "load_report",
    "load_run",
    "make_phantom",
    "open_records",
    "open_slide",
    "register",
    "score",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
