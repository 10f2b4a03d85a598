"""What is known of each marker: predicted from H&E, counted on IHC or given by hand; no number without its origin.

Three sources:

    <stem>.report.json   of `vstain score`: every marker's reading, with the interval that the model's bundle gives;
                         HER2's score
    summary.json         of `vstain count`: the counted ratio, with the binomial interval of the count
    MARKER=VALUE         what a laboratory has found: er=92%, her2=2+, her2-ish=negative
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from virtual_stain.errors import ConfigError, InputError
from virtual_stain.files import read_json, sha256_file
from virtual_stain.her2 import HER2_SCORES
from virtual_stain.markers import Marker, parse_marker
from virtual_stain.readings import wilson
from virtual_stain.report.headline import flag_words

READINGS = ("global_ratio", "global_mean", "top_mean")
ISH = ("positive", "negative")
PREDICTED, COUNTED, GIVEN = "predicted from H&E", "counted on IHC", "given by hand"
_REPORT_SCHEMA, _SUMMARY_SCHEMA = 1, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One marker. A nuclear marker and PD-L1 have `value`, HER2 has `score`; None: the source has no reading."""

    marker: Marker
    origin: str
    value: float | None = None
    """Fraction of tumour cells, 0–1."""
    interval: tuple[float, float] | None = None
    interval_note: str = ""
    """What the interval is, or why there is none."""
    cells: float | None = None
    """Tumour cells that it rests on, counted or expected; None: not known."""
    score: str | None = None
    """HER2: 0, 1+, 2+ or 3+."""
    ish: str | None = None
    """HER2 by in-situ hybridisation: positive or negative."""
    slide: str = ""
    slide_sha256: str = ""
    source: str = ""
    """The file, or the words of the command line."""
    source_sha256: str = ""
    flags: tuple[str, ...] = ()

    @property
    def is_known(self) -> bool:
        return self.value is not None or self.score is not None or self.ish is not None


@dataclass(frozen=True, slots=True)
class Panel:
    """The evidence of one lesion, one piece a marker, in the order of the markers."""

    evidence: tuple[Evidence, ...]
    warnings: tuple[str, ...] = field(default=())

    def of(self, marker: Marker) -> Evidence | None:
        return next((e for e in self.evidence if e.marker is marker and e.is_known), None)


def collect(files: Iterable[Path], given: Iterable[str], *, reading: str = "global_ratio") -> Panel:
    """Reads every source. `reading`: which reading of a report counts, one of READINGS.

    Raises InputError (a file that is neither report nor summary), ConfigError (`given`; a marker from two sources: the
    program does not choose between them).
    """
    if reading not in READINGS:
        raise ConfigError(f"Expected a reading, one of: {' '.join(READINGS)}. Received: {reading!r}")
    found = _with_ish([e for path in files for e in _read_file(path, reading)] + _parse_given(list(given)))
    if not found:
        raise ConfigError("expected a report, a summary or a given value.", hint="vstain panel a.report.json --out DIR")
    for marker in Marker:
        sources = [e.source for e in found if e.marker is marker]
        if len(sources) > 1:
            raise ConfigError(
                f"{marker.label}: expected one source. Received {len(sources)}: {', '.join(sources)}.",
                hint="Leave out those that should not count.",
            )
    order = list(Marker)
    evidence = tuple(sorted(found, key=lambda e: order.index(e.marker)))
    return Panel(evidence, _doubts(evidence))


def _with_ish(found: list[Evidence]) -> list[Evidence]:
    """A result of in-situ hybridisation that was given alone belongs to the one score of a report or summary, where
    that is 2+; otherwise both stay, and are refused as two sources."""
    alone = [e for e in found if e.ish is not None and e.score is None]
    equivocal = [e for e in found if e.score == "2+" and e.ish is None]
    if len(alone) != 1 or len(equivocal) != 1:
        return found
    joined = replace(equivocal[0], ish=alone[0].ish, source=f"{equivocal[0].source}, {alone[0].source}")
    return [joined if e is equivocal[0] else e for e in found if e is not alone[0]]


def _doubts(evidence: tuple[Evidence, ...]) -> tuple[str, ...]:
    warnings = []
    predicted = {e.slide_sha256: e.slide for e in evidence if e.origin == PREDICTED}
    if len(predicted) > 1:
        warnings.append(
            f"The predictions come from different H&E slides ({', '.join(sorted(predicted.values()))}): nothing here "
            "shows that they are of one lesion."
        )
    if any(e.origin == PREDICTED for e in evidence):
        warnings.append(
            "The rule sets were made for immunohistochemistry read by people. Applied to predictions from H&E they are "
            "research, and no ground for a treatment."
        )
    for e in evidence:
        warnings += [f"{e.marker.label}: {words}" for words in flag_words(e.flags)]
        if not e.is_known:
            warnings.append(f"{e.marker.label}: {e.source} has no reading.")
    return tuple(warnings)


def _read_file(path: Path, reading: str) -> list[Evidence]:
    value = read_json(path, "a report of `vstain score` or a summary of `vstain count`")
    version = value.get("schema_version") if isinstance(value, Mapping) else None
    if version in (_REPORT_SCHEMA, _SUMMARY_SCHEMA):
        try:
            if "readings" in value and version == _REPORT_SCHEMA:
                return [_predicted(path, value, name, reading) for name in value["readings"]]
            if "marker" in value and version == _SUMMARY_SCHEMA:
                return [_counted(path, value)]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"{path}: a report or summary that lacks something, or holds it wrongly: {error!r}"
            ) from None
    raise InputError(
        f"{path}: expected <stem>.report.json of `vstain score` (schema_version {_REPORT_SCHEMA}) or summary.json of "
        f"`vstain count` (schema_version {_SUMMARY_SCHEMA}). Received another file.",
    )


def _predicted(path: Path, report: Mapping[str, Any], name: str, reading: str) -> Evidence:
    marker, values = parse_marker(name), report["readings"][name]
    common: dict[str, Any] = {
        "marker": marker,
        "origin": PREDICTED,
        "slide": str(report["slide"]["name"]),
        "slide_sha256": str(report["slide"]["content_sha256"]),
        "source": path.name,
        "source_sha256": sha256_file(path),
        "flags": tuple(str(flag) for flag in values["flags"]),
    }
    if marker.has_intensities:
        if "her2" not in values:
            raise InputError(f"{path}: {marker.label} without its intensities: a share is no score.")
        note = "no interval of a score: how sure it is cannot be said"
        return Evidence(score=_score(values["her2"]["score"]), interval_note=note, **common)
    if values["value_definition"] != "positive_ratio":
        raise InputError(
            f"{path}: {marker.label} as {values['value_definition']}: no rule set knows this value, and it is not "
            "approximated by another.",
        )
    interval, note = None, "the interval belongs to global_ratio alone"
    if reading == "global_ratio":
        interval, note = _interval(values["interval"])
    return Evidence(
        value=_fraction(values[reading]),
        interval=interval,
        interval_note=note,
        cells=values["expected_tumour_cells"],
        **common,
    )


def _interval(value: Mapping[str, Any] | None) -> tuple[tuple[float, float] | None, str]:
    if value is None:
        return None, "the model gives no interval"
    low, high, level = _fraction(value["low"]), _fraction(value["high"]), _fraction(value["level"])
    if low is None or high is None or level is None:
        return None, str(value.get("reason") or "the model gives no interval")
    if low > high:
        raise ValueError(f"an interval from {low} to {high}")
    return (low, high), f"{level:.0%} interval of the model, for a new patient"


def _counted(path: Path, summary: Mapping[str, Any]) -> Evidence:
    marker = parse_marker(summary["marker"])
    common: dict[str, Any] = {
        "marker": marker,
        "origin": COUNTED,
        "slide": str(summary["slide"]["name"]),
        "source": str(Path(path.parent.name) / path.name),
        "source_sha256": sha256_file(path),
        "flags": tuple(str(text) for text in summary["warnings"]),
    }
    if marker is Marker.HER2:
        return Evidence(score=_score(summary["her2"]["score"]), **common)
    positive, negative = int(summary["tumour"]["positive"]), int(summary["tumour"]["negative"])
    n = positive + negative
    note = (
        f"95 % interval of the count alone ({n} cells; Wilson 1927): neither the counting's errors nor the sampling's"
    )
    return Evidence(
        value=positive / n if n else None,
        interval=wilson(positive, n) if n else None,
        interval_note=note,
        cells=n,
        **common,
    )


def _score(value: Any) -> str | None:
    if value not in (None, *HER2_SCORES):
        raise ValueError(f"a HER2 score of {value!r}")
    return None if value is None else str(value)


def _fraction(value: Any) -> float | None:
    if value is None:
        return None
    number = float(value)
    if not 0 <= number <= 1:
        raise ValueError(f"expected a fraction from 0 to 1. Received: {value!r}")
    return number


def _parse_given(words: list[str]) -> list[Evidence]:
    """`er=92%`, `ki67=0.14`, `her2=2+`, `her2-ish=negative`; the last two join into one."""
    values: dict[str, str] = {}
    for word in words:
        name, equals, text = (part.strip() for part in word.partition("="))
        if not equals or not text:
            raise ConfigError(f"--given {word!r}: expected MARKER=VALUE, e.g. er=92% or her2=2+")
        if name.lower() in values:
            raise ConfigError(f"--given: {name} stands twice.")
        values[name.lower()] = text
    found = []
    ish = values.pop("her2-ish", None)
    if ish is not None and ish not in ISH:
        raise ConfigError(f"--given her2-ish={ish}: expected one of: {' '.join(ISH)}")
    for name, text in values.items():
        marker = parse_marker(name)
        if marker is Marker.HER2:
            if text not in HER2_SCORES:
                raise ConfigError(f"--given her2={text}: expected one of: {' '.join(HER2_SCORES)}")
            if ish is not None and text != "2+":
                raise ConfigError(f"--given her2-ish={ish}: expected with HER2 2+ alone. Received: her2={text}")
            found.append(Evidence(marker=marker, origin=GIVEN, score=text, ish=ish, source=f"her2={text}"))
        else:
            found.append(
                Evidence(
                    marker=marker,
                    origin=GIVEN,
                    value=_given_fraction(name, text),
                    interval_note="given without an interval",
                    source=f"{name}={text}",
                )
            )
    if ish is not None and "her2" not in values:
        found.append(Evidence(marker=Marker.HER2, origin=GIVEN, ish=ish, source=f"her2-ish={ish}"))
    return found


def _given_fraction(name: str, text: str) -> float:
    try:
        number = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        number = math.nan
    if not 0 <= number <= 1:
        raise ConfigError(f"--given {name}={text}: expected a fraction from 0 to 1, or per cent as 92%")
    return number
