"""[phantom]: synthetic slide pairs. Not part of the analysis: nothing that reads real slides looks at these numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from virtual_stain.config.check import require_one_of, require_range
from virtual_stain.errors import ConfigError

MODES = ("serial", "restain")
FORMATS = ("tiff", "svs", "ndpi")
LABS = ("", "tinted", "sky_blue", "broad", "grey_blue", "violet", "clusters")
ARTEFACTS = ("control", "fold", "pen", "blur", "bubble", "missing")


@dataclass(frozen=True, slots=True, kw_only=True)
class PhantomBiology:
    """How strongly the H&E nuclei tell of the proliferation, and how patients differ."""

    mean_logit: float = -1.35
    """Log-odds of a positive cell in the middle of a patient's field (−1.35 = 21 %)."""
    field_logit_sd: float = 1.1
    """Spread of the field within a patient, log-odds; ± 2 sd is about 3 % to 72 %."""
    patient_logit_sd: float = 0.35
    """Spread of `mean_logit` between patients, log-odds."""
    field_scale_um: float = 230.0
    """Smoothness (Gaussian sigma) of the proliferation field; hot spots are about three times as wide, µm."""
    coupling: float = 0.84
    """Correlation of the nuclear morphology with the field within a patient; 1 would make H&E tell everything."""
    nucleus_um: float = 9.0
    """Mean diameter of a tumour nucleus in the middle of the morphology field, µm."""
    nucleus_slope_um: float = 0.95
    """Growth of the mean diameter per standard deviation of the morphology field, µm."""
    patient_nucleus_sd_um: float = 0.25
    """Spread of `nucleus_um` between patients, µm."""
    nest_fraction: float = 0.68
    """Share of the tissue that tumour nests fill."""

    def __post_init__(self) -> None:
        require_range("mean_logit", self.mean_logit, -6, 6)
        require_range("field_logit_sd", self.field_logit_sd, 0, 5)
        require_range("patient_logit_sd", self.patient_logit_sd, 0, 5)
        require_range("field_scale_um", self.field_scale_um, 20, 5000)
        require_range("coupling", self.coupling, 0, 1)
        require_range("nucleus_um", self.nucleus_um, 6, 14)
        require_range("nucleus_slope_um", self.nucleus_slope_um, 0, 2)
        require_range("patient_nucleus_sd_um", self.patient_nucleus_sd_um, 0, 2)
        require_range("nest_fraction", self.nest_fraction, 0.05, 0.95)


@dataclass(frozen=True, slots=True, kw_only=True)
class PhantomSettings:
    """One cohort of slide pairs: one pair per patient."""

    pairs: int = 1
    """Slide pairs (patients)."""
    size_mm: float = 2.2
    """Side of the tissue, mm."""
    margin_mm: float = 0.15
    """Glass around the tissue, mm."""
    he_mpp: float = 0.5
    """Pixel size of the H&E slide, µm/px."""
    ihc_mpp: float = 0.46
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
    """Laboratory and camera that the IHC slide looks like (phantom/labs.py); "": the usual one. Nuclear markers."""
    artefacts: tuple[str, ...] = ()
    """Any of control, fold, pen, blur, bubble, missing."""
    seed: int = 0
    """Same seed and settings: same bytes."""
    rotation_deg: float | None = None
    """Rotation from H&E to IHC; None: any."""
    mirror: bool | None = None
    """Mirrored IHC; None: half of the pairs."""
    stretch_fraction: float = 0.03
    """Largest change of scale per axis between the sections, beyond the pixel sizes."""
    elastic_um: float = 14.0
    """Largest elastic displacement, µm; 0: none."""
    elastic_scale_um: float = 500.0
    """Smoothness (Gaussian sigma) of the elastic displacement, µm."""
    jpeg_quality: int = 88
    """Of the slides' tiles; chroma is not subsampled."""
    biology: PhantomBiology = PhantomBiology()
    """Cells and field."""

    def __post_init__(self) -> None:
        require_range("pairs", self.pairs, 1, 10_000)
        require_range("size_mm", self.size_mm, 0.3, 60)
        require_range("margin_mm", self.margin_mm, 0.05, 20)
        require_range("he_mpp", self.he_mpp, 0.1, 2)
        require_range("ihc_mpp", self.ihc_mpp, 0.1, 2)
        require_one_of("mode", self.mode, MODES)
        require_one_of("format", self.format, FORMATS)
        require_one_of("marker", self.marker, ("ki67", "er", "pr", "her2", "pdl1"))
        require_one_of("lab", self.lab, LABS)
        if self.lab and self.marker not in ("ki67", "er", "pr"):
            raise ValueError(f"lab: expected a nuclear marker (ki67, er, pr) beside it. Received: {self.marker}")
        for name in self.artefacts:
            require_one_of("artefacts", name, ARTEFACTS)
        require_range("seed", self.seed, 0, 2**63)
        if self.rotation_deg is not None:
            require_range("rotation_deg", self.rotation_deg, -360, 360)
        require_range("stretch_fraction", self.stretch_fraction, 0, 0.2)
        require_range("elastic_um", self.elastic_um, 0, 200)
        require_range("elastic_scale_um", self.elastic_scale_um, 50, 20_000)
        require_range("jpeg_quality", self.jpeg_quality, 50, 100)


def settings_from_options(options: Mapping[str, Any]) -> PhantomSettings:
    """Settings from the command line's words; `artefacts` is "a,b", "all" or "". Raises ConfigError."""
    text = str(options.get("artefacts", "")).strip()
    names = ARTEFACTS if text == "all" else tuple(name.strip() for name in text.split(",") if name.strip())
    try:
        return PhantomSettings(**{**options, "artefacts": names})
    except ValueError as error:
        raise ConfigError(f"phantom: {error}") from None
