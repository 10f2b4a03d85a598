"""TOML file + `--set section.key=value` → `Config`: strict keys, all errors at once, "did you mean"."""

from __future__ import annotations

import dataclasses
import difflib
import enum
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from virtual_stain.config.counting import CountingSettings
from virtual_stain.config.labels import LabelSettings
from virtual_stain.config.registration import RegistrationSettings
from virtual_stain.config.scoring import ScoringSettings
from virtual_stain.config.shipped_files import named_config, shipped_configs
from virtual_stain.config.tiling import TilingSettings
from virtual_stain.config.tissue import TissueSettings
from virtual_stain.config.training import AugmentSettings, ModelSettings, TrainingSettings
from virtual_stain.config.web import WebSettings
from virtual_stain.errors import ConfigError

RENAMED: dict[tuple[str, str], str] = {
    ("labels", "min_tumour_cells"): "min_tile_cells",
    ("labels", "min_focus"): "min_tile_focus",
    ("counting", "min_tumour_cells"): "min_slide_cells",
    ("counting", "min_focus"): "min_window_focus",
    ("counting", "class_2_od"): "intensity_2_od",
    ("counting", "class_3_od"): "intensity_3_od",
}
"""(section, old key) → new key: read in what earlier versions recorded, refused where a person writes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """One section a stage; a stage receives its own section only."""

    tiling: TilingSettings = field(default_factory=TilingSettings)
    tissue: TissueSettings = field(default_factory=TissueSettings)
    registration: RegistrationSettings = field(default_factory=RegistrationSettings)
    counting: CountingSettings = field(default_factory=CountingSettings)
    labels: LabelSettings = field(default_factory=LabelSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    scoring: ScoringSettings = field(default_factory=ScoringSettings)
    web: WebSettings = field(default_factory=WebSettings)

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Values as JSON has them, for `run.json`; a file gives back equal ones, and `config_from_dict` reads them."""
        result: dict[str, dict[str, Any]] = _plain(dataclasses.asdict(self))
        return result


def load_config(path: Path | None = None, overrides: Iterable[str] = ()) -> Config:
    """Defaults, then the file, then the overrides (`section.key=value`, the value as TOML or a bare word).

    `path`: a file, or the bare name of a configuration that comes with the program.

    Raises ConfigError that lists every unknown key, wrong type and value out of range at once.
    """
    values: dict[str, dict[str, Any]] = {}
    problems: list[str] = []
    if path is not None:
        values = _read_toml(named_config(path))
    for text in overrides:
        try:
            section, key, value = _parse_override(text)
        except ConfigError as error:
            problems.append(error.message)
            continue
        table = values.setdefault(section, {})
        if isinstance(table, dict):
            table[key] = value
    config, more = _build(values)
    problems += more
    if problems or config is None:
        where = f"{path}: " if path is not None else ""
        raise ConfigError(
            f"{where}the configuration has errors:\n" + "\n".join(f"  - {p}" for p in problems),
            hint="Correct them; nothing was started. vstain configs --out DIR writes configurations to begin with.",
        )
    return config


def config_from_dict(values: Mapping[str, Mapping[str, Any]]) -> Config:
    """The inverse of `Config.to_dict`, with the same checks; what an earlier version recorded is read, too."""
    config, problems = _build(with_current_names(values))
    if problems or config is None:
        raise ConfigError("the recorded configuration has errors:\n" + "\n".join(f"  - {p}" for p in problems))
    return config


def with_current_names(recorded: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Recorded settings under the names that they have now."""
    return {
        section: {RENAMED.get((section, key), key): value for key, value in table.items()}
        for section, table in recorded.items()
    }


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, enum.Enum):
        return _plain(value.value)
    return str(value) if isinstance(value, Path) else value


def _read_toml(path: Path) -> dict[str, dict[str, Any]]:
    try:
        with path.open("rb") as stream:
            return tomllib.load(stream)
    except OSError as error:
        hint = None
        if path.stem in shipped_configs() and not path.exists():
            hint = f"It comes with the program. Write it there: vstain configs {path.stem} --out {path.parent}"
        raise ConfigError(f"{path}: the configuration cannot be read: {error.strerror}", hint=hint) from None
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, brackets in brackets
        raise ConfigError(f"{path}: not valid TOML: {error!s:.200}") from None


def _parse_override(text: str) -> tuple[str, str, Any]:
    name, equals, raw = text.partition("=")
    section, dot, key = name.strip().partition(".")
    if not equals or not dot or not section or not key:
        raise ConfigError(f"--set: expected section.key=value. Received: {text!r}")
    try:
        value = tomllib.loads(f"v = {raw.strip()}")["v"]
    except (ValueError, RecursionError):
        value = raw.strip()  # a bare word is a string: --set training.recipe=finetune
    return section, key, value


def _build(values: Mapping[str, Any]) -> tuple[Config | None, list[str]]:
    problems: list[str] = []
    sections: dict[str, Any] = {}
    known = {f.name: f for f in dataclasses.fields(Config)}
    hints = typing.get_type_hints(Config)
    for name, table in values.items():
        if name not in known:
            problems.append(_unknown("section", f"[{name}]", name, known))
        elif not isinstance(table, Mapping):
            problems.append(f"{name}: expected a section [{name}]. Received: {table!r}")
        else:
            built = _build_section(hints[name], name, table, problems)
            if built is not None:
                sections[name] = built
    return (None if problems else Config(**sections)), problems


def _build_section(cls: type, name: str, table: Mapping[str, Any], problems: list[str]) -> Any:
    hints = typing.get_type_hints(cls)  # without the ranges: the section checks those itself
    arguments: dict[str, Any] = {}
    before = len(problems)
    for key, value in table.items():
        if (name, key) in RENAMED:
            problems.append(f"{name}.{key} is called {name}.{RENAMED[name, key]} now.")
            continue
        if key not in hints:
            problems.append(_unknown("key", f"{name}.{key}", key, hints))
            continue
        try:
            arguments[key] = _convert(value, hints[key])
        except ValueError as error:
            problems.append(f"{name}.{key}: {error}")
    if len(problems) > before:
        return None
    try:
        return cls(**arguments)
    except ValueError as error:
        problems.append(f"{name}.{error}")
        return None


def _convert(value: Any, hint: Any) -> Any:
    """A TOML value as the field's type, or ValueError."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        options = [a for a in typing.get_args(hint) if a is not type(None)]
        if value is None or (value == "none" and str not in options):
            return None
        return _convert(value, options[0])
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"expected a list. Received: {value!r}")
        item = typing.get_args(hint)[0]
        return tuple(_convert(v, item) for v in value)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        try:
            return hint(value)
        except ValueError:
            allowed = ", ".join(str(m.value) for m in hint)
            raise ValueError(f"expected one of {allowed}. Received: {value!r}") from None
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ValueError(f"expected {hint.__name__}. Received: {value!r}")
    return value


def _unknown(what: str, shown: str, name: str, known: Iterable[str]) -> str:
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1)
    guess = f" Did you mean {close[0]!r}?" if close else f" Known: {', '.join(names)}."
    return f"unknown {what} {shown}.{guess}"
