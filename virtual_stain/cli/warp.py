"""`vstain warp`."""

from __future__ import annotations

from pathlib import Path

import click

from virtual_stain.cli.common import Common, common_options


@click.command(name="warp")
@click.argument("registration", type=click.Path(path_type=Path))
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@click.option("-o", "--out", "target", metavar="OUT", type=click.Path(path_type=Path), required=True)
@click.option("--inverse", is_flag=True, help="From IHC to H&E.")
@click.option(
    "--geojson-origin",
    type=click.Choice(["bounds", "slide"]),
    default="bounds",
    show_default=True,
    help="Frame of GeoJSON: level-0 px from the corner of the scan (as QuPath counts) or of the whole slide.",
)
@common_options
def command(registration: Path, source: Path, target: Path, inverse: bool, geojson_origin: str, common: Common) -> None:
    """Map points (CSV or TSV with the columns x,y in level-0 px) or QuPath annotations (GeoJSON) from H&E to IHC.

    REGISTRATION is the folder that `vstain register` wrote, or one of its two files.

    \b
    vstain warp block7 tumour.geojson -o tumour-on-ihc.geojson
    vstain warp block7 cells.csv -o cells-on-he.csv --inverse
    """
    from virtual_stain.registration.store import read_registration
    from virtual_stain.registration.warp import frame_of, warp_file

    pair = read_registration(registration)
    pair.raise_if_rejected()
    frame = frame_of(pair, inverse=inverse, from_bounds=geojson_origin == "bounds")
    warped = warp_file(pair.transform, source, target, frame, pair.evidence.bare)
    if pair.error_median_um is None:
        common.progress.say(f"Mind the registration: {pair.reason()}")
    if warped.outside:
        common.progress.say(f"Mind {warped.outside} points outside the scan: no tissue of this slide lies there.")
    if warped.bare:
        common.progress.say(
            f"Mind {warped.bare} points on H&E tissue that has no IHC tissue under it (missing, or moved elsewhere): "
            "no error is stated there."
        )
    click.echo(f"{warped.points} points → {target}")
