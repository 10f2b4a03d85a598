"""What stands behind a model, for the top of every report: on how many patients it was trained and evaluated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from virtual_stain.exporting.card import ModelCard
from virtual_stain.markers import parse_marker
from virtual_stain.value_text import ValueText

FEW_PATIENTS = 20
"""Patients below which an evaluation or a training is called small: an interval needs as many."""

INDIRECT = "It reads by the indirect path: a value is the ratio that it expects of the IHC tile that it predicts."


@dataclass(frozen=True, slots=True)
class Evidence:
    """Sentences for a reader, and whether they are a warning."""

    sentences: tuple[str, ...]
    is_weak: bool

    def to_json(self) -> dict[str, Any]:
        """As it stands in report.json."""
        return {"sentences": list(self.sentences), "is_weak": self.is_weak}


def evidence_of(card: ModelCard) -> Evidence:
    """From the bundle's card."""
    evaluation = card.training.get("evaluation")
    training, small_training = _training(card.training)
    if card.training.get("path") == "indirect":
        training = (*training, INDIRECT)
    if not evaluation:
        never = (
            "This model was never evaluated on patients that it has not seen: how far its readings are off is not "
            "known."
        )
        return Evidence((never, *training), True)
    shown = ValueText(card.value_definition)
    sentences, few = [], False
    for marker, found in evaluation["markers"].items():
        patients = _patients(found)
        few |= patients is None or patients < FEW_PATIENTS
        number = "an unknown number of" if patients is None else f"{patients}"
        text = f"{parse_marker(marker).label}: evaluated on {number} patients that the model had not seen"
        error = (found.get("slides") or {}).get("mae")
        if error is not None:
            text += f"; a slide's reading was off by {shown.difference(error)} on average"
        if patients is not None and patients < FEW_PATIENTS:
            text += f". So few patients (fewer than {FEW_PATIENTS}) say little about a new one"
        sentences.append(text + ".")
    return Evidence((*sentences, *training), few or small_training)


def _patients(found: Mapping[str, Any]) -> int | None:
    for level, name in (("patients", "n"), ("tiles", "n_patients")):
        number = (found.get(level) or {}).get(name)
        if isinstance(number, int):
            return number
    return None


def _training(training: Mapping[str, Any]) -> tuple[tuple[str, ...], bool]:
    """(sentences, whether they are a warning) about how the model was trained."""
    sentences = []
    patients = training.get("n_patients")
    number = patients.get("train") if isinstance(patients, Mapping) else None
    if isinstance(number, int) and number < FEW_PATIENTS:
        sentences.append(f"It was trained on {number} patients only.")
    if verdict := training.get("verdict"):
        sentences.append(f"Its training ended with a warning: {verdict}")
    return tuple(sentences), bool(sentences)
