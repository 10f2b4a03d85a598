"""`vstain export`"""

from __future__ import annotations

from pathlib import Path

import click

from virtual_stain.cli.common import Common, common_options


@click.command("export")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--out", required=True, metavar="MODEL", type=click.Path(path_type=Path), help="The model's folder.")
@click.option("--version", type=click.IntRange(1), help="Version number [default: the next free one].")
@click.option("--name", help="The model's name for TF Serving [default: the name of MODEL].")
@common_options
def command(run: Path, out: Path, version: int | None, name: str | None, common: Common) -> None:
    """Export a training run as a SavedModel bundle.

    \b
    vstain export RUN --out models/ki67

    Writes MODEL/<version>/ (the bundle, verified by sha256 before anybody loads it) and MODEL/serving/ (TF Serving's
    configuration). An existing version is never overwritten.
    """
    from virtual_stain.export.saved_model import export_run

    folder = export_run(run, out, version=version, name=name, progress=common.progress)
    click.echo(f"{folder}: exported. Try it: vstain score SLIDE --model {out}")
