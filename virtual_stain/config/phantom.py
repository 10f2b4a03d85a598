"""[phantom]: synthetic slide pairs. Not part of the analysis: nothing that reads real slides looks at these numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from virtual_stain.config.check import Range, check_ranges, require_one_of
from virtual_stain.errors import ConfigError

MODES = ("serial", "restain")
FORMATS = ("tiff", "svs", "ndpi")
LABS = ("", "tinted", "sky_blue", "broad", "grey_blue", "violet", "clusters", "vesicular")
ARTEFACTS = ("control", "fold", "pen", "blur", "bubble", "missing")


@dataclass(frozen=True, slots=True, kw_only=True)
class PhantomBiology:
    """How strongly the H&E nuclei tell of the proliferation, and how patients differ."""

    mean_logit: Annotated[float, Range(-6, 6)] = -1.35
    """Log-odds of a positive cell in the middle of a patient's field (−1.35 = 21 %)."""
    field_logit_sd: Annotated[float, Range(0, 5)] = 1.1
    """Spread of the field within a patient, log-odds; ± 2 sd is about 3 % to 72 %."""
    patient_logit_sd: Annotated[float, Range(0, 5)] = 0.35
    """Spread of `mean_logit` between patients, log-odds."""
    field_scale_um: Annotated[float, Range(20, 5000)] = 230.0
    """Smoothness (Gaussian sigma) of the proliferation field; hot spots are about three times as wide, µm."""
    coupling: Annotated[float, Range(0, 1)] = 0.84
    """Correlation of the nuclear morphology with the field within a patient; 1 would make H&E tell everything."""
    patient_coupling: Annotated[float, Range(0, 1)] = 0.0
    """How much of a patient's own level shows in the nuclei: 0: nothing, a reader cannot know it; `coupling`: as much
    as of the field within the patient."""
    nucleus_um: Annotated[float, Range(6, 14)] = 9.0
    """Mean diameter of a tumour nucleus in the middle of the morphology field, µm."""
    nucleus_slope_um: Annotated[float, Range(0, 2)] = 0.95
    """Growth of the mean diameter per standard deviation of the morphology field, µm."""
    patient_nucleus_sd_um: Annotated[float, Range(0, 2)] = 0.25
    """Spread of `nucleus_um` between patients, µm."""
    nest_fraction: Annotated[float, Range(0.05, 0.95)] = 0.68
    """Share of the tissue that tumour nests fill."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class PhantomSettings:
    """One cohort of slide pairs: one pair per patient."""

    pairs: Annotated[int, Range(1, 10_000)] = 1
    """Slide pairs (patients)."""
    size_mm: Annotated[float, Range(0.3, 60)] = 2.2
    """Side of the tissue, mm."""
    margin_mm: Annotated[float, Range(0.05, 20)] = 0.15
    """Glass around the tissue, mm."""
    he_mpp: Annotated[float, Range(0.1, 2)] = 0.5
    """Pixel size of the H&E slide, µm/px."""
    ihc_mpp: Annotated[float, Range(0.1, 2)] = 0.46
    """Pixel size of the IHC slide, µm/px."""
    mode: str = "serial"
    """"serial": the neighbouring section, other cells of the same tissue; "restain": the same cells."""
    format: str = "tiff"
    """tiff (generic pyramid), svs (Aperio-like) or ndpi (Hamamatsu-like)."""
    marker: str = "ki67"
    """Marker id written to pairs.csv: ki67, er, pr stain nuclei; her2, pdl1 membranes."""
    hard: bool = False
    """Crowded, overlapping, uneven nuclei, faint positives; a blurred and noisy scanner with a colour cast."""
    lab: str = ""
    """Laboratory of both slides (phantom/labs.py, phantom/he_labs.py); "": the usual one. Nuclear markers only."""
    artefacts: tuple[str, ...] = ()
    """Any of control, fold, pen, blur, bubble, missing."""
    seed: Annotated[int, Range(0, 2**63)] = 0
    """Same seed and settings: same bytes."""
    rotation_deg: Annotated[float | None, Range(-360, 360)] = None
    """Rotation from H&E to IHC; None: any."""
    mirror: bool | None = None
    """Mirrored IHC; None: half of the pairs."""
    stretch_fraction: Annotated[float, Range(0, 0.2)] = 0.03
    """Largest change of scale per axis between the sections, beyond the pixel sizes."""
    elastic_um: Annotated[float, Range(0, 200)] = 14.0
    """Largest elastic displacement, µm; 0: none."""
    elastic_scale_um: Annotated[float, Range(50, 20_000)] = 500.0
    """Smoothness (Gaussian sigma) of the elastic displacement, µm."""
    jpeg_quality: Annotated[int, Range(50, 100)] = 88
    """Of the slides' tiles; chroma is not subsampled."""
    biology: PhantomBiology = PhantomBiology()
    """Cells and field."""

    def __post_init__(self) -> None:
        check_ranges(self)
        require_one_of("mode", self.mode, MODES)
        require_one_of("format", self.format, FORMATS)
        require_one_of("marker", self.marker, ("ki67", "er", "pr", "her2", "pdl1"))
        require_one_of("lab", self.lab, LABS)
        if self.lab and self.marker not in ("ki67", "er", "pr"):
            raise ValueError(f"lab: expected a nuclear marker (ki67, er, pr) beside it. Received: {self.marker}")
        for name in self.artefacts:
            require_one_of("artefacts", name, ARTEFACTS)


def settings_from_options(options: Mapping[str, Any]) -> PhantomSettings:
    """Settings from the command line's words; `artefacts` is "a,b", "all" or "". Raises ConfigError."""
    text = str(options.get("artefacts", "")).strip()
    names = ARTEFACTS if text == "all" else tuple(name.strip() for name in text.split(",") if name.strip())
    try:
        return PhantomSettings(**{**options, "artefacts": names})
    except ValueError as error:
        raise ConfigError(f"phantom: {error}") from None
