"""The network of a run: of the direct path, or of the indirect one."""

from __future__ import annotations

from collections.abc import Sequence

from virtual_stain.config.training import ModelSettings
from virtual_stain.markers import Marker
from virtual_stain.model.build import BuildOptions, Network, build_network
from virtual_stain.model.generator import build_generator


def network_of_path(settings: ModelSettings, markers: Sequence[Marker], options: BuildOptions) -> Network:
    """What `settings.path` asks for. Raises ModelError, ConfigError."""
    if settings.path == "indirect":
        return build_generator(settings, markers, options)
    return build_network(settings, markers, options)
