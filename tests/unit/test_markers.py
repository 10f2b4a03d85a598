import pytest

from virtual_stain.errors import ConfigError
from virtual_stain.markers import CellCounts, Marker, ValueDefinition, parse_marker, require_definition


def test_the_sources_example_is_a_quarter():
    assert CellCounts(positive=10, negative=30).ratio == 0.25


def test_no_cells_have_no_ratio():
    counts = CellCounts(0, 0)
    assert counts.ratio is None
    assert counts.standard_error is None


@pytest.mark.parametrize(("n", "points"), [(50, 5.7), (100, 4.0), (200, 2.8), (500, 1.8)])
def test_standard_error_is_the_binomial_one(n, points):
    error = CellCounts(positive=n // 5, negative=n - n // 5).standard_error
    assert round(100 * error, 1) == points


def test_markers_are_parsed_in_any_case_and_unknown_ones_listed():
    assert parse_marker(" Ki67 ") is Marker.KI67
    with pytest.raises(ConfigError, match="ki67 er pr her2 pdl1"):
        parse_marker("ki-76")


@pytest.mark.parametrize(
    ("written", "marker"),
    [
        *(("Ki-67", Marker.KI67), ("ki 67", Marker.KI67), ("MIB-1", Marker.KI67), ("PD-L1", Marker.PDL1)),
        *(("HER-2/neu", Marker.HER2), ("c-erbB-2", Marker.HER2), ("Her2", Marker.HER2), ("PgR", Marker.PR)),
        *(("ERα", Marker.ER), ("PD‑L1", Marker.PDL1)),  # a hyphen that does not break
    ],
)
def test_the_spellings_that_people_use_are_understood(written, marker):
    assert parse_marker(written) is marker


@pytest.mark.parametrize("definition", list(ValueDefinition))
def test_intensities_have_one_definition(definition):
    if definition is not ValueDefinition.POSITIVE_RATIO:
        with pytest.raises(ConfigError, match="intensities"):
            require_definition(Marker.HER2, definition)
    for marker in set(Marker) - {Marker.HER2}:
        require_definition(marker, definition)
    require_definition(Marker.HER2, ValueDefinition.POSITIVE_RATIO)


def test_a_model_answers_value_cells_and_of_her2_the_classes():
    assert Marker.KI67.outputs == ("ki67", "ki67_tumour_cells")
    classes = ("her2_class_1", "her2_class_2", "her2_class_3")
    assert Marker.HER2.outputs == ("her2", "her2_tumour_cells", *classes)
    assert [m for m in Marker if m.intensity_outputs] == [Marker.HER2]


def test_value_definitions_say_what_they_count_and_in_which_unit():
    facts = {d.value: (d.is_ratio, d.of_positive, d.unit) for d in ValueDefinition}
    assert facts == {
        "positive_ratio": (True, True, "fraction"),
        "negative_ratio": (True, False, "fraction"),
        "positive_count": (False, True, "cells/mm2"),
        "negative_count": (False, False, "cells/mm2"),
    }


def test_counts_add_up():
    assert CellCounts(1, 2) + CellCounts(3, 4) == CellCounts(4, 6)
    with pytest.raises(ValueError, match="≥ 0"):
        CellCounts(-1, 0)


@pytest.mark.parametrize(("positive", "negative"), [(1, 0), (0, 3), (3, 0)])
def test_a_few_cells_of_one_kind_are_uncertain(positive: int, negative: int) -> None:
    counts = CellCounts(positive, negative)
    assert counts.standard_error == 0
    assert counts.uncertainty is not None
    assert counts.uncertainty > 0.06
    assert CellCounts(0, 0).uncertainty is None
