"""The model card: everything that a scorer must know about a model, and nothing that it may choose itself."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from virtual_stain.config.tiling import TilingSettings
from virtual_stain.config.training import CROP_WEIGHTS
from virtual_stain.errors import ConfigError, VerificationError
from virtual_stain.markers import Marker, ValueDefinition, parse_marker, require_definition
from virtual_stain.patients import PatientKey

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """Markers, geometry, thresholds and origin of one model version."""

    name: str
    """ASCII letters, digits, _ . -: the model's name for TF Serving."""
    version: int
    markers: tuple[Marker, ...]
    """Each with the outputs `Marker.outputs`: its value, its expected tumour cells, the shares of its intensities."""
    value_definition: ValueDefinition
    tiling: TilingSettings
    """Window (µm), tile (px) and stride (µm): the same grid as when the records were built."""
    crop_px: int
    """Side of the square that the network sees; a tile's reading is the mean over its grid of these."""
    crop_weights: str = "equal"
    """What crops weigh in a tile's ratio: "equal", or "cells", their expected tumour cells."""
    min_tissue_fraction: float
    """A tile with less tissue carries no reading."""
    min_tumour_cells: float
    """A tile with fewer expected tumour cells carries no reading."""
    patient_key_fingerprint: str = ""
    training_slides: tuple[str, ...] = ()
    """Keyed hashes of the training slides' content; empty: unknown."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """Summary of the training, with held-out figures when they are known."""
    intervals: Mapping[str, Any] = field(default_factory=dict)
    """Marker id → payload of `virtual_stain.intervals.fit_interval`, applied with `slide_interval`; a marker that is
    missing has none."""
    training_range: Mapping[str, Any] | None = None
    """Payload of `virtual_stain.appearance.training_range`, compared with `outside_training`; None: not measured."""
    software: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _require(
            bool(self.name) and self.name.isascii() and all(c.isalnum() or c in "_.-" for c in self.name),
            "name",
            "ASCII letters, digits, _ . -",
            self.name,
        )
        _require(self.version >= 1, "version", "an integer ≥ 1", self.version)
        _require(
            bool(self.markers) and len(set(self.markers)) == len(self.markers),
            "markers",
            "distinct markers",
            self.markers,
        )
        _require(1 <= self.crop_px <= self.tiling.tile_px, "crop_px", f"1 to {self.tiling.tile_px}", self.crop_px)
        _require(self.crop_weights in CROP_WEIGHTS, "crop_weights", " or ".join(CROP_WEIGHTS), self.crop_weights)
        _require(
            0 <= self.min_tissue_fraction <= 1, "thresholds.min_tissue_fraction", "0 to 1", self.min_tissue_fraction
        )
        _require(
            math.isfinite(self.min_tumour_cells) and self.min_tumour_cells >= 0,
            "thresholds.min_tumour_cells",
            "a number ≥ 0",
            self.min_tumour_cells,
        )

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of everything that the model answers for a tile."""
        return tuple(name for marker in self.markers for name in marker.outputs)

    def to_json(self) -> dict[str, Any]:
        """Plain values; `card_from_json` reads them back. Also what the `describe` signature answers."""
        return {
            "schema_version": SCHEMA_VERSION,
            "name": self.name,
            "version": self.version,
            "markers": [m.value for m in self.markers],
            "value_definition": self.value_definition.value,
            "unit": self.value_definition.unit,
            "window_um": self.tiling.window_um,
            "stride_um": self.tiling.step_um,
            "tile_px": self.tiling.tile_px,
            "tile_mpp": self.tiling.tile_mpp,
            "crop_px": self.crop_px,
            "crop_weights": self.crop_weights,
            "thresholds": {
                "min_tissue_fraction": self.min_tissue_fraction,
                "min_tumour_cells": self.min_tumour_cells,
            },
            "patient_key_fingerprint": self.patient_key_fingerprint,
            "training_slides": list(self.training_slides),
            "training": dict(self.training),
            "intervals": {marker: dict(payload) for marker, payload in self.intervals.items()},
            "training_range": None if self.training_range is None else dict(self.training_range),
            "software": dict(self.software),
        }


def card_from_json(value: Mapping[str, Any], where: str) -> ModelCard:
    """The inverse of `ModelCard.to_json`; `where` names the file or server in errors.

    Raises VerificationError for a card that is not ours, not whole, or of a kind that is not built: a value
    that is not understood is never scored in silence.
    """
    if value.get("schema_version") != SCHEMA_VERSION:
        raise VerificationError(
            f"{where}: expected a model card with schema_version {SCHEMA_VERSION}. "
            f"Received: {value.get('schema_version')!r}",
            hint="Use the version of virtual_stain that exported it, or export the run again.",
        )
    try:
        thresholds = value["thresholds"]
        card = ModelCard(
            name=str(value["name"]),
            version=int(value["version"]),
            markers=tuple(parse_marker(str(m)) for m in value["markers"]),
            value_definition=ValueDefinition(value["value_definition"]),
            tiling=TilingSettings(
                window_um=float(value["window_um"]),
                tile_px=int(value["tile_px"]),
                stride_um=float(value["stride_um"]),
            ),
            crop_px=int(value["crop_px"]),
            crop_weights=str(value.get("crop_weights", "equal")),  # bundles of before know the mean alone
            min_tissue_fraction=float(thresholds["min_tissue_fraction"]),
            min_tumour_cells=float(thresholds["min_tumour_cells"]),
            patient_key_fingerprint=str(value["patient_key_fingerprint"]),
            training_slides=tuple(str(h) for h in value["training_slides"]),
            training=dict(value["training"]),
            # bundles of before know neither: they say so instead of being refused
            intervals={str(m): dict(v) for m, v in (value.get("intervals") or {}).items()},
            training_range=None if not value.get("training_range") else dict(value["training_range"]),
            software={str(k): str(v) for k, v in value["software"].items()},
        )
        _require(value["unit"] == card.value_definition.unit, "unit", card.value_definition.unit, value["unit"])
        for marker in card.markers:
            require_definition(marker, card.value_definition)
    except KeyError as error:
        raise VerificationError(f"{where}: the model card lacks {error}.") from None
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise VerificationError(f"{where}: the model card is not usable: {error}") from None
    except ConfigError as error:
        raise VerificationError(f"{where}: {error.message}", hint=error.hint) from None
    return card


def model_name(folder: Path) -> str:
    """The name of a model's folder as a model name: what a URL cannot hold becomes _."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", folder.resolve().name).strip("_.-")
    return name or "model"


def seen_in_training(card: ModelCard, content_sha256: str, key: PatientKey | None) -> bool | None:
    """Whether the slide is one of the training slides; None: cannot be known here (no list, or not the key).

    The card holds keyed hashes, so that it gives no slide away.
    """
    if not card.training_slides or key is None or key.fingerprint != card.patient_key_fingerprint:
        return None
    return key.content_id(content_sha256) in card.training_slides


def _require(condition: bool, name: str, expected: str, received: object) -> None:
    if not condition:
        raise ValueError(f"{name}: expected {expected}. Received: {received!r}")
