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
@click.option("--sign", metavar="KEY", type=click.Path(path_type=Path), help="Sign with a private key and register.")
@common_options
def command(run: Path, out: Path, version: int | None, name: str | None, sign: Path | None, common: Common) -> None:
    """Export a training run as a SavedModel bundle.

    \b
    vstain export RUN --out models/ki67
    vstain export RUN --out models/ki67 --sign lab.pem

    Writes MODEL/<version>/ (the bundle, verified by sha256 before anybody loads it) and MODEL/serving/ (TF Serving's
    configuration). An existing version is never overwritten. --sign (keys: vstain models keygen) also adds it to
    MODEL/registry.jsonl.
    """
    from virtual_stain.workflows.export_model import export_model

    done = export_model(run, out, version=version, name=name, sign=sign, progress=common.progress)
    click.echo(f"{done.folder}: exported. Try it: vstain score SLIDE --model {out}")
    if done.head is not None:
        click.echo(f"Signed and registered. Note the registry's head elsewhere: {done.head}")
