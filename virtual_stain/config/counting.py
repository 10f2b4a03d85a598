"""[counting]: reading an IHC image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from virtual_stain.config.check import Range, check_ranges, require_range
from virtual_stain.markers import ValueDefinition


@dataclass(frozen=True, slots=True, kw_only=True)
class CountingSettings:
    """How nuclei are found and classed."""

    value_definition: ValueDefinition = ValueDefinition.POSITIVE_RATIO
    """Which number of a tile is its label, and so what a model trained on it answers: "positive_ratio",
    "negative_ratio", "positive_count" or "negative_count" (of tumour cells; counts per mm²)."""
    any_stain: bool = False
    """Read a slide although its second stain does not look like DAB; only a warning is left then."""
    work_mpp: Annotated[float, Range(0.2, 0.6)] = 0.5
    """Pixel size nuclei are looked for at, µm/px; finer images are averaged to about this."""
    max_mpp: Annotated[float, Range(0.2, 1.0)] = 0.75
    """Coarsest pixel size that is counted, µm/px; above it nuclei are too few pixels and the image is refused."""
    margin_um: Annotated[float, Range(88, 500)] = 88.0
    """Context around a window, µm; no nucleus depends on anything further away than 64 µm, and whether it is tumour
    on its neighbours within 24 µm more."""
    window_um: Annotated[float, Range(64, 4096)] = 640.0
    """Side of the windows that a whole slide is read in, µm."""
    sample_windows: Annotated[int, Range(1, 200)] = 12
    """Windows that a slide's stain is estimated from."""
    sample_window_um: Annotated[float, Range(64, 2000)] = 256.0
    """Side of each of them, µm."""
    min_area_um2: Annotated[float, Range(1, 1000)] = 12.0
    """Smallest nucleus, µm²."""
    max_area_um2: Annotated[float, Range(1, 5000)] = 400.0
    """Largest nucleus, µm²."""
    min_radius_um: Annotated[float, Range(0.5, 3)] = 1.25
    """Smallest distance of a nucleus' outline from its middle, µm."""
    max_radius_um: Annotated[float, Range(4, 9)] = 9.0
    """Largest distance of a nucleus' outline from its middle, µm."""
    min_edge_score: Annotated[float, Range(0.01, 1)] = 0.2
    """How complete and clear an outline must be, 0–1; a typical negative nucleus in focus reaches 0.6–1."""
    overlap_share: Annotated[float, Range(0.05, 1)] = 0.3
    """Share of the smaller one's area from which two outlines are rivals for one nucleus."""
    level_contrast: Annotated[float, Range(0, 2)] = 0.3
    """Contrast against the surroundings that a nucleus needs, as a share of the typical one's, beyond
    `min_contrast_od`."""
    min_contrast_od: Annotated[float, Range(0.005, 1)] = 0.03
    """Contrast that is noise or cytoplasm, optical density summed over the three channels; at most as much as
    `level_contrast` asks for, since very pale slides have no more."""
    positive_default_od: Annotated[float, Range(0.01, 2)] = 0.2
    """Cut-off of positive on slides whose negative nuclei cannot be told, mean nuclear DAB optical density."""
    positive_floor_od: Annotated[float, Range(0.01, 1)] = 0.05
    """The cut-off, which follows the slide's negatives, is never below this …"""
    positive_ceiling_od: Annotated[float, Range(0.01, 2)] = 0.4
    """… and never above this: what is 2+ is positive on any slide."""
    intensity_2_od: Annotated[float, Range(0.01, 3)] = 0.4
    """Mean nuclear DAB optical density from which a positive nucleus is 2+."""
    intensity_3_od: Annotated[float, Range(0.01, 3)] = 0.6
    """… and 3+."""
    membrane_reach_um: Annotated[float, Range(1, 8)] = 4.0
    """How far beyond the nuclear outline a membrane is looked for, µm."""
    membrane_faint_od: Annotated[float, Range(0.01, 2)] = 0.12
    """DAB optical density from which a membrane is stained at all."""
    membrane_strong_od: Annotated[float, Range(0.01, 3)] = 0.5
    """… and from which it is intense."""
    membrane_some_fraction: Annotated[float, Range(0.01, 1)] = 0.2
    """Share of a cell's border that must be stained for 1+."""
    membrane_complete_fraction: Annotated[float, Range(0.01, 1)] = 0.75
    """Share of a cell's border from which it counts as complete: neighbours and the cut hide a part of it."""
    tumour_area_share: Annotated[float, Range(0, 2)] = 0.6
    """Smallest tumour nucleus among its like, as a share of the slide's typical nuclear area; lymphocytes are below."""
    tumour_min_area_um2: Annotated[float, Range(0, 1000)] = 20.0
    """The limit is never below this, µm² …"""
    tumour_max_min_area_um2: Annotated[float, Range(0, 1000)] = 50.0
    """… and never above this, µm²."""
    tumour_free_elongation: Annotated[float, Range(1, 100)] = 1.8
    """Long axis / short axis up to which a nucleus' length says nothing; fibroblasts and endothelium are above."""
    tumour_elongation_price: Annotated[float, Range(0, 100)] = 1.0
    """What each unit beyond costs, in the logarithm of an area ratio (counting/tumour.py)."""
    min_window_focus: Annotated[float, Range(0, 10)] = 0.18
    """Focus ratio (counting/focus.py) below which a window is out of focus."""
    max_saturated_fraction: Annotated[float, Range(0, 1)] = 0.3
    """Share of the nuclear pixels at the camera's black, above which it is flagged."""
    max_unexplained_fraction: Annotated[float, Range(0, 10)] = 0.25
    """Share of the nuclear optical density that is neither stain, above which it is flagged."""
    max_standard_error: Annotated[float, Range(0, 1)] = 0.06
    """Uncertainty of the ratio (Wilson, one standard error), above which it is flagged."""
    min_slide_cells: Annotated[int, Range(0, 100_000)] = 50
    """Tumour cells below which a nuclear reading of a slide is flagged few_cells."""
    min_membrane_cells: Annotated[int, Range(0, 100_000)] = 100
    """The same of HER2 and PD-L1: a TPS needs 100 viable tumour cells."""

    def __post_init__(self) -> None:
        check_ranges(self)
        for low_name, high_name in _ORDERED:
            require_range(high_name, getattr(self, high_name), getattr(self, low_name), 1e6)


_ORDERED = (
    ("work_mpp", "max_mpp"),
    ("min_area_um2", "max_area_um2"),
    ("min_radius_um", "max_radius_um"),
    ("positive_floor_od", "positive_ceiling_od"),
    ("intensity_2_od", "intensity_3_od"),
    ("membrane_faint_od", "membrane_strong_od"),
    ("membrane_some_fraction", "membrane_complete_fraction"),
    ("tumour_min_area_um2", "tumour_max_min_area_um2"),
)
