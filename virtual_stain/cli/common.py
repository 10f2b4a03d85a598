"""Options that every verb has, and what they become."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from virtual_stain.config import Config, load_config
from virtual_stain.parallel import available_cores
from virtual_stain.progress import QUIET, Console, Progress


@dataclass(frozen=True, slots=True)
class Common:
    """The common options, resolved."""

    config: Config
    progress: Progress
    jobs: int
    force: bool
    verbose: bool


def common_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --config, --set, -v, -q, --jobs, --force and passes them on as one `common: Common`."""

    @click.option("--config", "config_path", type=click.Path(path_type=Path), help="TOML file; see configs/.")
    @click.option("--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Override one config field.")
    @click.option("-v", "--verbose", is_flag=True, help="Say more.")
    @click.option("-q", "--quiet", is_flag=True, help="No progress.")
    @click.option("--jobs", type=click.IntRange(1), default=None, help="Processes [default: all processors].")
    @click.option("--force", is_flag=True, help="Do finished work again; take over a folder of another run.")
    @functools.wraps(function)
    def wrapper(
        *args: Any,
        config_path: Path | None,
        overrides: tuple[str, ...],
        verbose: bool,
        quiet: bool,
        jobs: int | None,
        force: bool,
        **kwargs: Any,
    ) -> Any:
        logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
        logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what matters of an odd file is refused or told
        # our own loggers alone: those of the libraries would drown them
        logging.getLogger("vstain").setLevel(logging.DEBUG if verbose else logging.WARNING)
        common = Common(
            config=load_config(config_path, overrides),
            progress=QUIET if quiet else Console(),
            jobs=jobs or available_cores(),
            force=force,
            verbose=verbose,
        )
        return function(*args, common=common, **kwargs)

    return wrapper


class LocationType(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions of click alone
    """A folder, or a URL of object storage (s3://bucket/folder)."""

    name = "location"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from virtual_stain.remote import parse_location

        return parse_location(value) if isinstance(value, str) else value


def parse_mpp(text: str | None) -> tuple[float, float] | None:
    """`0.25` or `0.25,0.26` → (x, y) in µm/px; None stays None. Raises ConfigError."""
    from virtual_stain.errors import ConfigError
    from virtual_stain.tables import parse_pixel_size

    if text is None:
        return None
    try:
        return parse_pixel_size(text)
    except ValueError as error:
        raise ConfigError(f"--mpp: {error}") from None
