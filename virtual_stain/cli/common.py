"""Options that every verb has, and what they become."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
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

    @click.option("--config", "config_path", type=click.Path(path_type=Path), help="TOML file or vstain configs NAME.")
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


def say_aside(text: str) -> None:
    """What must be seen with --quiet, too, and beside stdout."""
    click.echo(text, err=True)


def with_any_stain(config: Config, insisted: bool) -> Config:
    """--force-unsuitable: slides are taken for what they are given for, whatever their colours say."""
    if not insisted:
        return config
    counting, scoring = replace(config.counting, any_stain=True), replace(config.scoring, any_stain=True)
    return replace(config, counting=counting, scoring=scoring)


class LocationType(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions of click alone
    """A folder, or a URL of object storage (s3://bucket/folder)."""

    name = "location"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from virtual_stain.remote import parse_location

        return parse_location(value) if isinstance(value, str) else value


def parse_mpp(text: str | None, *, coarse: bool = False) -> tuple[float, float] | None:
    """`0.25` or `0.25,0.26` → (x, y) in µm/px; None stays None. Raises ConfigError, ResolutionError.

    `coarse`: the verb takes any slide that can be registered, not only those on which cells can be read.
    """
    from virtual_stain.errors import ConfigError, ResolutionError
    from virtual_stain.slides.resolution import READING_RANGE, REGISTRATION_RANGE
    from virtual_stain.tables import parse_pixel_size

    if text is None:
        return None
    try:
        found = parse_pixel_size(text)
    except ValueError as error:
        raise ConfigError(f"--mpp: {error}", hint="With a decimal point: --mpp 0.25, or --mpp 0.25,0.26") from None
    low, high = REGISTRATION_RANGE if coarse else READING_RANGE
    if not all(low <= value <= high for value in found):
        raise ResolutionError(
            f"--mpp: expected a pixel size of {low} to {high} µm/px here. Received: {text}",
            hint="Pass µm per level-0 pixel: 0.25 of a 40× scan, 0.5 of a 20× scan.",
        )
    return found
