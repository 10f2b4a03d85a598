"""The published JSON Schemas of the files that this package writes and reads back, and the one place that checks them.

What JSON itself leaves open (double keys, NaN, numbers that overflow) is refused before, by `files.parse_json`. What no
schema can say (sums, hashes of other files, values against each other) is checked where the file is read.
"""

from __future__ import annotations

import functools
import importlib.resources
from typing import Any

from virtual_stain.errors import VerificationError

NAMES = ("manifest", "bundle", "registration", "build", "packed", "registry")
_SHOWN = 10


def problems_with(value: Any, name: str) -> list[str]:
    """Where `value` does not follow the schema `name`, as sentences that begin with the place; empty: it does."""
    return [_sentence(error) for error in _validator(name).iter_errors(value)]


def require_schema(value: Any, name: str, where: str, hint: str | None = None) -> None:
    """Raises VerificationError that lists what does not follow the schema; `where` names the file."""
    problems = problems_with(value, name)
    if problems:
        shown = problems[:_SHOWN] + ([f"… and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else [])
        lines = "\n".join(f"  - {problem}" for problem in shown)
        raise VerificationError(f"{where}: expected the values of {name}.schema.json. Received others:\n{lines}", hint)


@functools.cache
def _validator(name: str) -> Any:
    import jsonschema_rs

    text = (
        importlib.resources.files("virtual_stain")
        .joinpath("schemas", f"{name}.schema.json")
        .read_text(encoding="utf-8")
    )
    return jsonschema_rs.validator_for(text)


def _sentence(error: Any) -> str:
    place = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in error.instance_path).lstrip(".")
    return f"{place or 'the document'}: {error.message!s:.200}"
