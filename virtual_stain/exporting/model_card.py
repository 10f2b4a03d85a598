"""`model_card.md` in every bundle: what the model is, who it has learned from, how far off it was, what it is not for.

Sections after Mitchell et al., "Model Cards for Model Reporting", FAT* 2019. Everything is taken from the card that
`bundle.json` holds; what is not known is said to be unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from virtual_stain.exporting.card import ModelCard
from virtual_stain.value_text import ValueText

MODEL_CARD = "model_card.md"
_LIMITS = (
    "Research use only: not a medical device; no clinical decision may rest on its output.",
    "It reads the value of a region from H&E; it says nothing about a single cell.",
    "It has learned from slides of the kind below. Another scanner, lab, stain or organ is another problem: "
    "evaluate it on records from there first.",
    "The mean of the top tiles is a hot-spot statistic: it grows with the number of tiles and noise biases it upward.",
    "Labels are counts of a program on a neighbouring section, reviewed as said below; their error adds to its own.",
)


def model_card_text(card: ModelCard) -> str:
    """Markdown. Fractions are shown as per cent and points, counts as cells per mm²."""
    shown = ValueText(card.value_definition)
    markers = ", ".join(m.label for m in card.markers)
    tiling, crop = card.tiling, card.crop_px
    lines = [
        f"# {card.name}, version {card.version}: {markers} from H&E",
        "",
        f"Value: {card.value_definition.value} ({card.value_definition.unit}) of tiles of {tiling.window_um:g} µm "
        f"({tiling.tile_px} px, {tiling.tile_mpp:g} µm/px), read in crops of {crop} px. A tile enters a reading "
        f"from {100 * card.min_tissue_fraction:.0f} % tissue and {card.min_tumour_cells:g} expected tumour cells on.",
        "",
        "## Limits",
        "",
        *(f"- {text}" for text in _LIMITS),
        "",
        "## Data",
        "",
        *_data(card),
        "",
        "## Held-out figures",
        "",
        *_figures(card.training.get("evaluation"), shown),
        "",
        "## Interval of a slide reading",
        "",
        *_intervals(card),
        "",
        "## Software",
        "",
        *(f"- {name} {version}" for name, version in card.software.items()),
    ]
    return "\n".join(lines) + "\n"


def _data(card: ModelCard) -> list[str]:
    training = card.training
    patients, tiles = training.get("n_patients"), training.get("n_tiles")
    lines = []
    if isinstance(patients, Mapping) and isinstance(tiles, Mapping):
        lines += [
            "| side | patients | tiles |",
            "|---|---|---|",
            *(f"| {side} | {patients[side]} | {tiles.get(side, '–')} |" for side in patients),
            "",
        ]
    known = {
        "network": " ".join(str(training[k]) for k in ("kind", "trunk_end", "head") if training.get(k)) or None,
        "a place of its last map": _place(training.get("map")),
        "crops of a tile weigh": "their expected tumour cells" if card.crop_weights == "cells" else "the same",
        "starting weights": training.get("weights"),
        "recipe": training.get("recipe"),
        "test fold": training.get("fold"),
        "checkpoint": None if training.get("best_step") is None else f"step {training['best_step']}",
        "manifest of the records (sha256)": training.get("manifest_sha256"),
        "patient key (fingerprint)": card.patient_key_fingerprint or None,
    }
    lines += [f"- {name}: {'unknown' if value is None else value}" for name, value in known.items()]
    review: dict[Any, str] = {True: "waived: nobody had to look at them", False: "every tile accepted by a person"}
    lines.append(f"- review of the labels: {review.get(training.get('accept_unreviewed'), 'unknown')}")
    look = card.training_range
    if look is not None:
        lines.append(f"- look of {look['n_slides']} training slides: measured; slides outside it get no interval")
    return lines


def _place(found: Mapping[str, Any] | None) -> str | None:
    if not found:
        return None
    return (
        f"every {found['stride_px']} px of the crop, sees {found['receptive_field_px']} px, so "
        f"{found['halo_px']} px to each side where the crop reaches that far"
    )


def _figures(evaluation: Mapping[str, Any] | None, shown: ValueText) -> list[str]:
    if not evaluation:
        return ["None: the run was not evaluated with these weights (`vstain evaluate RUN` before `vstain export`)."]
    lines, unit = [f"Read on: {evaluation['held_out']}.", ""], shown.difference_unit
    duplicates = evaluation.get("duplicate_tissue")
    if duplicates is None:
        lines += ["Nobody has looked for the same tissue under two patients.", ""]
    elif duplicates:
        lines += [f"**{len(duplicates)} pairs show the same tissue under two patients: figures may be leakage.**", ""]
    lines += [
        f"| marker | level | n | r | ICC(2,1) | mean absolute error, {unit} | bias, {unit} | limits of agreement |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for marker, found in evaluation["markers"].items():
        for level in ("patients", "slides"):
            f = found[level]
            limits = f["limits_of_agreement"]
            span = "–" if limits is None else shown.span(*limits)
            columns = [_with(f, name, _number) for name in ("pearson", "icc_2_1")]
            columns += [_with(f, name, shown.number) for name in ("mae", "bias")]
            lines.append(f"| {marker} | {level} | {f['n']} | {' | '.join(columns)} | {span} |")
        tiles = found["tiles"]
        within, pooled = _number(tiles["pearson_within_patient"]), _number(tiles["pearson_pooled"])
        r = f"{within} within a patient, {pooled} pooled"
        lines.append(f"| {marker} | tiles | {tiles['n_labelled']} | {r} | | {shown.number(tiles['mae'])} | | |")
    lines += ["", "In brackets: 95 % intervals by resampling patients."]
    for marker, found in evaluation["markers"].items():
        for row in found["patients"]["cut_offs"] or ():
            lines.append(
                f"- {marker} {row['higher']} ({row['source']}): AUC {_number(row['auc'])}, sensitivity "
                f"{_number(row['sensitivity'])}, specificity {_number(row['specificity'])} over patients"
            )
        if met := found.get("classes", {}).get("score_agreement"):
            lines.append(f"- {marker} score 0 to 3+: read as counted on {met['equal']} of {met['n']} slides")
    return lines


def _intervals(card: ModelCard) -> list[str]:
    lines = []
    for marker in card.markers:
        payload = card.intervals.get(marker.value)
        if not payload:
            lines.append(f"- {marker.label}: none; no out-of-fold readings of its patients (`vstain fit --cv`)")
        elif not payload["available"]:
            lines.append(f"- {marker.label}: none; {payload['reason']}")
        else:
            lines.append(
                f"- {marker.label}: CV+ from {payload['n_patients']} patients in {payload['n_folds']} folds, nominal "
                f"{100 * payload['level']:.0f} %, for new patients of the same kind"
            )
            lines += _calibration(payload)
    return lines


def _calibration(payload: Mapping[str, Any]) -> list[str]:
    """The line from raw to calibrated readings; bundles of before know no interval of it."""
    spans = payload.get("calibration_intervals")
    if not spans:
        return []
    (intercept, slope), between = payload["calibration"], {n: "{:.2f} to {:.2f}".format(*v) for n, v in spans.items()}
    return [
        f"  - calibration on the scale arcsin √p: slope {slope:.2f} ({between['slope']}), offset {intercept:+.3f} "
        f"({between['intercept']}); a report shows the calibrated reading beside the raw one"
    ]


def _with(figures: Mapping[str, Any], name: str, written: Callable[[float | None], str]) -> str:
    interval = (figures.get("intervals") or {}).get(name)
    between = "" if interval is None else f" ({written(interval[0])} to {written(interval[1])})"
    return written(figures[name]) + between


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
