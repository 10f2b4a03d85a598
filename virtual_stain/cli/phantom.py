"""`vstain phantom`: synthetic slide pairs with complete truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from virtual_stain.cli.common import Common, common_options
from virtual_stain.config.phantom import ARTEFACTS, FORMATS, LABS, MODES


@click.command("phantom")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for slides, pairs.csv and truth/.")
@click.option("--pairs", type=int, default=1, show_default=True, help="Slide pairs, one patient each.")
@click.option("--size-mm", type=float, default=2.2, show_default=True, help="Side of the tissue, mm.")
@click.option("--he-mpp", type=float, default=0.5, show_default=True, help="Pixel size of the H&E slides, µm/px.")
@click.option("--ihc-mpp", type=float, default=0.46, show_default=True, help="Pixel size of the IHC slides, µm/px.")
@click.option(
    "--mode", type=click.Choice(MODES), default="serial", show_default=True, help="Other cells, or the same cells."
)
@click.option("--format", "file_format", type=click.Choice(FORMATS), default="tiff", show_default=True)
@click.option("--marker", default="ki67", show_default=True, help="ki67, er, pr, her2 or pdl1.")
@click.option("--hard", is_flag=True, help="Crowded, faint, blurred, noisy, with a colour cast.")
@click.option(
    "--lab",
    type=click.Choice(LABS[1:]),
    default=None,
    help="Both slides as another laboratory cuts, stains and scans them [default: the usual one].",
)
@click.option("--artefacts", default="", metavar="NAME,NAME", help=f"Any of: {' '.join(ARTEFACTS)}; or all.")
@click.option("--rotation-deg", type=float, default=None, help="Rotation of the IHC slide [default: any].")
@click.option("--mirror/--no-mirror", default=None, help="Mirrored IHC slide [default: half of the pairs].")
@click.option("--elastic-um", type=float, default=14.0, show_default=True, help="Largest elastic displacement, µm.")
@click.option("--seed", type=int, default=0, show_default=True, help="Same seed and options: same bytes.")
@common_options
def command(out: Path, artefacts: str, file_format: str, lab: str | None, common: Common, **options: Any) -> None:
    """Makes H&E/IHC slide pairs of which everything is known.

    \b
    vstain phantom --out phantoms --pairs 10 --size-mm 2.2
    vstain phantom --out one --format ndpi --mode restain --artefacts pen,control
    vstain phantom --out weak --lab tinted
    """
    from virtual_stain.config.phantom import settings_from_options
    from virtual_stain.phantom.cohort import write_cohort

    settings = settings_from_options({**options, "format": file_format, "artefacts": artefacts, "lab": lab or ""})
    path = write_cohort(out, settings, jobs=common.jobs, force=common.force, progress=common.progress)
    click.echo(path)
