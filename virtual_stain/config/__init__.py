"""Every number that a user may change, as frozen dataclasses; one file a section, one default a field."""

from virtual_stain.config.counting import CountingSettings
from virtual_stain.config.labels import LabelSettings
from virtual_stain.config.load import Config, load_config
from virtual_stain.config.registration import RegistrationSettings
from virtual_stain.config.scoring import ScoringSettings
from virtual_stain.config.tiling import TilingSettings
from virtual_stain.config.tissue import TissueSettings
from virtual_stain.config.training import AugmentSettings, ModelSettings, TrainingSettings
from virtual_stain.config.web import WebSettings

__all__ = [
    "AugmentSettings",
    "Config",
    "CountingSettings",
    "LabelSettings",
    "ModelSettings",
    "RegistrationSettings",
    "ScoringSettings",
    "TilingSettings",
    "TissueSettings",
    "TrainingSettings",
    "WebSettings",
    "load_config",
]
