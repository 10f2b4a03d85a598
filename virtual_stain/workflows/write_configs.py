"""`vstain configs`: the shipped configurations, written to a folder of the user's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from virtual_stain.config.shipped_files import shipped_configs
from virtual_stain.errors import ConfigError, OutputError
from virtual_stain.files import make_folder, write_text


def chosen_configs(names: Sequence[str]) -> dict[str, Path]:
    """Those named, with or without .toml; all where none is named. Raises ConfigError."""
    known = shipped_configs()
    chosen = [name.removesuffix(".toml") for name in names] or list(known)
    if unknown := [name for name in chosen if name not in known]:
        raise ConfigError(
            f"expected names of configurations: {' '.join(known)}. Received: {' '.join(unknown)}",
            hint="vstain configs lists them.",
        )
    return {name: known[name] for name in chosen}


def write_configs(chosen: Mapping[str, Path], out: Path, *, force: bool = False) -> list[Path]:
    """Writes `<name>.toml` each; returns the files. Raises OutputError where one is there already, unless `force`."""
    targets = {name: make_folder(out) / f"{name}.toml" for name in chosen}
    there = [path for name, path in targets.items() if path.exists() and not force]
    if there:
        raise OutputError(
            f"{there[0]}: expected a name that is free. Received: a file that is there already.",
            hint="Choose another --out, or replace it with --force.",
        )
    for name, path in targets.items():
        write_text(path, chosen[name].read_text(encoding="utf-8"))
    return list(targets.values())
