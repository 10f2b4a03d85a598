"""How a virtual slide says in its own metadata that it is a prediction."""

from __future__ import annotations

from collections.abc import Iterable

VIRTUAL_MARK = "VSTAIN-VIRTUAL-PREDICTION"
"""Stands in the OME-XML and in the Software tag of every level. No other file has it."""
VIRTUAL_SENTENCE = "predicted from H&E by a model, not a stain; research use only"


def is_virtual(texts: Iterable[object]) -> bool:
    """Whether one of a file's own descriptions says that its picture is a prediction."""
    return any(VIRTUAL_MARK in text for text in texts if isinstance(text, str))
