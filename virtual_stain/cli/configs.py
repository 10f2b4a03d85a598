"""`vstain configs`."""

from __future__ import annotations

from pathlib import Path

import click

from virtual_stain.cli.common import Common, common_options


@click.command("configs")
@click.argument("names", nargs=-1, metavar="[NAME]…")
@click.option("--out", type=click.Path(path_type=Path), help="Folder to write them to [default: only list them].")
@common_options
def command(names: tuple[str, ...], out: Path | None, common: Common) -> None:
    """List the configurations that come with the program, or write them to a folder, to be used and changed.

    \b
    vstain configs
    vstain fit records --out run --config few_slides
    vstain configs ki67_finetune --out configs
    vstain fit records --out run --config configs/ki67_finetune.toml
    """
    from virtual_stain.config.shipped_files import purpose_of
    from virtual_stain.workflows.write_configs import chosen_configs, write_configs

    chosen = chosen_configs(names)
    if out is None:
        for name, path in chosen.items():
            click.echo(f"{name:<16} {purpose_of(path)}")
        click.echo("Use one by its name: vstain fit … --config few_slides")
        click.echo("Write them to a folder, to change them: vstain configs --out configs")
        return
    for written in write_configs(chosen, out, force=common.force):
        click.echo(written)
