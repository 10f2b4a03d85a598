"""The models to choose from: bundles and servers, each under a name that readers see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from virtual_stain.errors import ConfigError, VirtualStainError
from virtual_stain.exporting.bundle import BUNDLE_JSON, find_bundle
from virtual_stain.exporting.card import card_from_json
from virtual_stain.files import read_object
from virtual_stain.web.serve.models import ModelOut


@dataclass(frozen=True, slots=True)
class Models:
    """name → bundle folder or address, in the order given."""

    places: dict[str, str]

    @staticmethod
    def of(given: Sequence[str]) -> Models:
        """`NAME=MODEL` or `MODEL`. Raises ConfigError: none, or two of one name."""
        places: dict[str, str] = {}
        for text in given:
            name, equals, place = text.partition("=")
            if not equals or "/" in name:
                name, place = _name_of(text), text
            if not name or name in places:
                raise ConfigError(
                    f"web.models: expected models of different names. Received {name!r} twice, or a model without one.",
                    hint="Name them: --model NAME=MODEL",
                )
            places[name] = place if "://" in place else str(Path(place).absolute())
        if not places:
            raise ConfigError("web.models: expected a model.", hint="vstain serve --root SLIDES --model MODEL")
        return Models(places)

    def listing(self) -> list[ModelOut]:
        """What is known of each without loading it."""
        return [_describe(name, place) for name, place in self.places.items()]


def _name_of(model: str) -> str:
    if "://" in model:
        return urlsplit(model).path.rstrip("/").rsplit("/", 1)[-1]
    path = Path(model).absolute()
    return path.parent.name if path.name.isdigit() else path.name


def _describe(name: str, place: str) -> ModelOut:
    if "://" in place:
        return ModelOut(id=name, kind="server", markers=[], version=None, tile_um=None, problem=None)
    try:
        folder = find_bundle(Path(place))
        # its files are verified when it is loaded; this is for the list only
        card = card_from_json(read_object(folder / BUNDLE_JSON, "a model bundle's card"), str(folder / BUNDLE_JSON))
    except (VirtualStainError, OSError, ValueError, KeyError, TypeError):
        problem = "no model bundle is there, or it cannot be read"
        return ModelOut(id=name, kind="bundle", markers=[], version=None, tile_um=None, problem=problem)
    return ModelOut(
        id=name,
        kind="bundle",
        markers=[m.label for m in card.markers],
        version=card.version,
        tile_um=card.tiling.window_um,
        problem=None,
    )
