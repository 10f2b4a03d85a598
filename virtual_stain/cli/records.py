"""`vstain records show`, `vstain records verify` and `vstain records augmentations`."""

from __future__ import annotations

from pathlib import Path

import click

from virtual_stain.cli.common import Common, LocationType, common_options
from virtual_stain.remote import Location


@click.group("records")
def command() -> None:
    """Show, verify or augment a folder of records.

    \b
    vstain records verify records
    vstain records show records case-01 12 7
    vstain records augmentations records --config configs/ki67.toml
    """


@command.command("show")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.argument("place", metavar="[INDEX | PAIR COL ROW]", nargs=-1)
@click.option("--out", type=click.Path(path_type=Path), help="Picture [default: DIR/shown/<pair>_<col>_<row>.png].")
@common_options
def show(folder: Path, place: tuple[str, ...], out: Path | None, common: Common) -> None:
    """Print a record and draw its tile with the cells (red positive, blue negative); without a place the first.

    \b
    vstain records show records 0
    vstain records show records case-01 12 7
    """
    from virtual_stain.records.schema import parse_place
    from virtual_stain.records.show import show_record

    shown = show_record(folder, parse_place(place), out)
    for line in shown.lines:
        click.echo(line)
    click.echo(f"picture ({'H&E and IHC' if shown.has_ihc else 'H&E'}): {shown.picture}")


@command.command("verify")
@click.argument("folder", metavar="DIR", type=LocationType())
@common_options
def verify(folder: Location, common: Common) -> None:
    """Check every sha256, CRC and record against schema and manifest, and that no patient is in two folds.

    \b
    vstain records verify records
    vstain records verify s3://bucket/records
    """
    from virtual_stain.records.verify import verify_records

    done = verify_records(folder, common.progress)
    patients = len(done.manifest.folds())
    click.echo(f"{folder}: {done.records} records in {done.shards} shards, {patients} patients: everything fits.")
    for twin in done.duplicates:
        click.echo(
            f"Beware: pairs {twin.pair} and {twin.other}, of two patients, show the same tissue "
            f"({twin.n_tiles} tiles look alike). One patient under two names is a leak: mend PAIRS.csv.",
            err=True,
        )


@command.command("augmentations")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Picture [default: DIR/shown/augmentations.png].")
@click.option("--crops", type=click.IntRange(1, 64), default=8, show_default=True, help="Rows.")
@click.option("--versions", type=click.IntRange(1, 32), default=6, show_default=True, help="Versions of each crop.")
@common_options
def augmentations(folder: Path, out: Path | None, crops: int, versions: int, common: Common) -> None:
    """Draw crops as the network sees them in training: as cut, then augmented."""
    from virtual_stain.training.contact_sheet import write_contact_sheet

    picture = out or folder / "shown" / "augmentations.png"
    sheet = write_contact_sheet(folder, common.config, picture, crops=crops, versions=versions)
    click.echo(f"picture ({sheet.crops} crops, {sheet.versions} versions each): {sheet.picture}")
