"""Published rule sets as data: which classes of a panel they allow, given what is known and how surely.

A rule set is a TOML file in `rules/`: id, version, citation, and outcomes in order; the first whose conditions hold is
the class. A condition bounds a marker's fraction (`from` ≥, `above` >, `below` <, `up_to` ≤) or names HER2's status.

Nothing is rounded into a class. A marker that is known with an interval may be anywhere in it; one that is not known at
all may be anywhere; HER2 2+ may be either until in-situ hybridisation has been done. All classes that are then possible
are found exactly (the conditions change only at their cut-offs), and more than one means *indeterminate*.
"""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from virtual_stain.errors import ConfigError
from virtual_stain.markers import Marker
from virtual_stain.report.panel.evidence import PREDICTED, Evidence, Panel

_BOUNDS = ("from", "above", "below", "up_to")
_HER2_STATUS = ("negative", "positive")
Value = float | str
"""A marker's fraction, or HER2's status."""
Condition = Mapping[Marker, Mapping[str, float] | str]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A class, and the conditions any of which makes it."""

    name: str
    any_of: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class RuleSet:
    """One published set of rules."""

    id: str
    version: str
    title: str
    citation: str
    read: str
    """What of the source was read when the file was written."""
    note: str
    undefined: str
    """The class where no outcome fits."""
    outcomes: tuple[Outcome, ...]
    least_cells: int = 0
    """Tumour cells that a reading must rest on to be classed."""

    @property
    def markers(self) -> tuple[Marker, ...]:
        used = {marker for o in self.outcomes for condition in o.any_of for marker in condition}
        return tuple(m for m in Marker if m in used)

    def cutoffs(self, marker: Marker) -> tuple[float, ...]:
        """Every bound of the marker, ascending."""
        bounds = {
            value
            for o in self.outcomes
            for condition in o.any_of
            if isinstance(table := condition.get(marker), Mapping)
            for value in table.values()
        }
        return tuple(sorted(bounds))

    def classify(self, values: Mapping[Marker, Value]) -> str:
        """The class of exact values of all markers."""
        for outcome in self.outcomes:
            if any(all(_holds(test, values[m]) for m, test in condition.items()) for condition in outcome.any_of):
                return outcome.name
        return self.undefined


@dataclass(frozen=True, slots=True)
class Finding:
    """What a rule set says of a panel."""

    rules: RuleSet
    outcome: str | None
    """None: indeterminate."""
    possible: tuple[str, ...]
    """All classes that what is known allows, in the order of the rule set."""
    reasons: tuple[str, ...]
    """Why it is indeterminate; or what the outcome rests on without an interval."""


def load_rule_sets() -> tuple[RuleSet, ...]:
    """All that come with the program, by id."""
    folder = resources.files(__package__) / "rules"
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".toml")), key=lambda f: f.name)
    return tuple(parse_rule_set(f.read_text(encoding="utf-8"), f.name) for f in files)


def parse_rule_set(text: str, name: str) -> RuleSet:
    """Raises ConfigError that names the file and what is wrong in it."""
    try:
        value = tomllib.loads(text)
        outcomes = tuple(
            Outcome(str(o["name"]), tuple(_condition(condition) for condition in o["when"])) for o in value["outcome"]
        )
        if value["schema"] != 1 or not outcomes or not all(o.any_of and all(o.any_of) for o in outcomes):
            raise ValueError("expected schema 1 and outcomes with conditions")
        return RuleSet(
            id=str(value["id"]),
            version=str(value["version"]),
            title=str(value["title"]),
            citation=str(value["citation"]),
            read=str(value["read"]),
            note=str(value.get("note", "")),
            undefined=str(value["undefined"]),
            outcomes=outcomes,
            least_cells=int(value.get("least_cells", 0)),
        )
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{name}: expected a rule set. Received something else: {error!r}") from None


def apply_rules(rules: RuleSet, panel: Panel) -> Finding | None:
    """None when nothing is known of any marker that the rule set asks for."""
    known = {marker: panel.of(marker) for marker in rules.markers}
    if not any(known.values()):
        return None
    few = [e for e in known.values() if e is not None and e.cells is not None and e.cells < rules.least_cells]
    if few:
        every = tuple(dict.fromkeys(o.name for o in rules.outcomes))
        return Finding(rules, None, every, tuple(_too_few(rules, e) for e in few))
    options = {marker: tuple(_options(rules, marker, evidence)) for marker, evidence in known.items()}
    found = {rules.classify(values) for values in _combinations(options)}
    order = [*dict.fromkeys(o.name for o in rules.outcomes), rules.undefined]
    possible = tuple(name for name in order if name in found)
    if len(possible) > 1:
        deciding = [marker for marker in options if _decides(rules, options, marker)]
        return Finding(rules, None, possible, tuple(_why(rules, m, known[m]) for m in deciding))
    bare = [m.label for m, e in known.items() if e is not None and _is_bare(e)]
    reasons = (f"{', '.join(bare)} without an interval: how sure this class is cannot be said.",) if bare else ()
    return Finding(rules, possible[0], possible, reasons)


def _is_bare(evidence: Evidence) -> bool:
    """A number or a predicted score that nothing says how sure it is of."""
    if evidence.score is not None:
        return evidence.origin == PREDICTED
    return evidence.value is not None and evidence.interval is None


def _too_few(rules: RuleSet, evidence: Evidence) -> str:
    cells = f"{evidence.cells:.0f} tumour cells"
    return f"{evidence.marker.label} rests on {cells}: at least {rules.least_cells} are needed."


def _condition(table: Mapping[str, Any]) -> Condition:
    result: dict[Marker, Mapping[str, float] | str] = {}
    for name, test in table.items():
        marker = Marker(name)
        if marker is Marker.HER2:
            if test not in _HER2_STATUS:
                raise ValueError(f"her2: expected one of {_HER2_STATUS}. Received: {test!r}")
            result[marker] = str(test)
        else:
            bounds = {str(key): float(value) for key, value in test.items()}
            if not bounds or not set(bounds) <= set(_BOUNDS) or not all(0 <= v <= 1 for v in bounds.values()):
                raise ValueError(f"{name}: expected bounds ({', '.join(_BOUNDS)}) from 0 to 1. Received: {test!r}")
            result[marker] = bounds
    return result


def _holds(test: Mapping[str, float] | str, value: Value) -> bool:
    if isinstance(test, str) or isinstance(value, str):
        return test == value
    return (
        value >= test.get("from", 0.0)
        and value <= test.get("up_to", 1.0)
        and ("above" not in test or value > test["above"])
        and ("below" not in test or value < test["below"])
    )


def _options(rules: RuleSet, marker: Marker, evidence: Evidence | None) -> Iterator[Value]:
    """Values that stand for all that the marker may be: between two cut-offs one is like another."""
    if marker is Marker.HER2:
        yield from _her2_options(evidence)
        return
    if evidence is None or evidence.value is None:
        low, high = 0.0, 1.0
    else:
        low, high = evidence.interval or (evidence.value, evidence.value)
        yield evidence.value  # a calibrated interval may lie beside the reading: then neither is to be trusted alone
    points = [low, *(c for c in rules.cutoffs(marker) if low < c < high), high]
    yield from points
    yield from ((a + b) / 2 for a, b in itertools.pairwise(points))


def _her2_options(evidence: Evidence | None) -> tuple[str, ...]:
    if evidence is None:
        return _HER2_STATUS
    if evidence.score in ("0", "1+"):
        return ("negative",)
    if evidence.score == "3+":
        return ("positive",)
    return _HER2_STATUS if evidence.ish is None else (evidence.ish,)


def _combinations(options: Mapping[Marker, tuple[Value, ...]]) -> Iterator[dict[Marker, Value]]:
    for values in itertools.product(*options.values()):
        yield dict(zip(options, values, strict=True))


def _decides(rules: RuleSet, options: Mapping[Marker, tuple[Value, ...]], marker: Marker) -> bool:
    """Whether, for some values of the others, the class depends on this marker."""
    others = {m: o for m, o in options.items() if m is not marker}
    return any(
        len({rules.classify({**values, marker: value}) for value in options[marker]}) > 1
        for values in _combinations(others)
    )


def _why(rules: RuleSet, marker: Marker, evidence: Evidence | None) -> str:
    if evidence is None:
        return f"{marker.label} is not known."
    if marker is Marker.HER2:
        return "HER2 2+ is equivocal: needs ISH."
    low, high = evidence.interval or (0.0, 1.0)
    crossed = [f"{c * 100:g} %" for c in rules.cutoffs(marker) if low <= c <= high]
    return f"the interval of {marker.label} ({low * 100:.1f}–{high * 100:.1f} %) crosses {', '.join(crossed)}."
