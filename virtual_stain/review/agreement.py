"""How far two readers agree on the tiles that both have decided.

Cohen's kappa (Cohen 1960, A coefficient of agreement for nominal scales, Educational and Psychological Measurement 20)
on accept against reject, and the difference of their ratios where both accept, with corrected cells (Bland & Altman
1986, Lancet 327: mean difference and 1.96 standard deviations of the differences).
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from virtual_stain.review.store import StoredDecision, standing
from virtual_stain.review.verdicts import Decision, Place, Verdict

RatioOf = Callable[[Verdict], float | None]
"""The ratio (0–1) of a label with the verdict's corrections; None where it has no cells or is gone."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Two readers; None: too few tiles to say."""

    first: str
    second: str
    n_shared: int
    """Labels that both accepted or rejected; skipped ones are not decided."""
    n_equal: int
    kappa: float | None
    """−1 to 1; None also where both said the same word every time: chance alone would agree too."""
    n_ratios: int
    """Labels that both accepted and that have a ratio."""
    mean_difference: float | None
    """Of the ratios, first − second, as a fraction."""
    limits_of_agreement: tuple[float, float] | None
    """mean ± 1.96 standard deviations."""


def agreement(decisions: Iterable[StoredDecision], ratio_of: RatioOf) -> list[Agreement]:
    """Every two readers with a shared tile, by name. A verdict counts for the label it was given on."""
    by_reader: dict[str, dict[tuple[Place, str], Verdict]] = {}
    for decision in standing(decisions):
        verdict = decision.verdict
        if verdict.decision is not Decision.SKIP:
            by_reader.setdefault(verdict.reviewer, {})[(verdict.place, verdict.label_id)] = verdict
    result = []
    for first, second in itertools.combinations(sorted(by_reader), 2):
        shared = by_reader[first].keys() & by_reader[second].keys()
        if shared:
            both = [(by_reader[first][key], by_reader[second][key]) for key in sorted(shared, key=_order)]
            result.append(_compare(first, second, both, ratio_of))
    return result


def cohens_kappa(pairs: Iterable[tuple[bool, bool]]) -> float | None:
    """Of two readers' yes or no; None without pairs, or where chance alone would agree every time."""
    listed = list(pairs)
    if not listed:
        return None
    n = len(listed)
    observed = sum(a == b for a, b in listed) / n
    yes = sum(a for a, _ in listed) / n, sum(b for _, b in listed) / n
    expected = yes[0] * yes[1] + (1 - yes[0]) * (1 - yes[1])
    return None if expected >= 1 else (observed - expected) / (1 - expected)


def _compare(first: str, second: str, both: list[tuple[Verdict, Verdict]], ratio_of: RatioOf) -> Agreement:
    words = [(a.decision is Decision.ACCEPT, b.decision is Decision.ACCEPT) for a, b in both]
    ratios = [(ratio_of(a), ratio_of(b)) for (a, b), (yes_a, yes_b) in zip(both, words, strict=True) if yes_a and yes_b]
    differences = [a - b for a, b in ratios if a is not None and b is not None]
    mean = statistics.fmean(differences) if differences else None
    spread = 1.96 * statistics.stdev(differences) if len(differences) > 1 else math.nan
    return Agreement(
        first,
        second,
        n_shared=len(both),
        n_equal=sum(a == b for a, b in words),
        kappa=cohens_kappa(words),
        n_ratios=len(differences),
        mean_difference=mean,
        limits_of_agreement=None if mean is None or math.isnan(spread) else (mean - spread, mean + spread),
    )


def _order(key: tuple[Place, str]) -> tuple[str, int, int, str]:
    place, label_id = key
    return place.pair, place.row, place.col, label_id
