"""`vstain info`."""

from __future__ import annotations

from pathlib import Path

import click

from virtual_stain.cli.common import Common, common_options, parse_mpp, say_aside


@click.command(name="info")
@click.argument("slides", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="SLIDE...")
@click.option("--mpp", metavar="F or FX,FY", help="Pixel size in µm of all given slides; wins over the files.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for overview and tissue pictures.")
@common_options
def command(slides: tuple[Path, ...], mpp: str | None, out: Path | None, common: Common) -> None:
    """Say what each SLIDE is: format, size, levels, pixel size and where it came from, tissue area.

    A slide that cannot be used as it is gets the reason and the way out, and the exit code is 3 (6 where others are
    fine). Label and macro images are never read.

    \b
    vstain info block7-he.ndpi
    vstain info scans/*.svs --mpp 0.25 --out info
    vstain info scans/                             every slide below a folder
    """
    from virtual_stain.slides.collection import expand
    from virtual_stain.slides.slide import SlideRef
    from virtual_stain.workflows.slide_info import describe_slides, raise_on_problems

    override = parse_mpp(mpp, coarse=True)
    paths = [path for given in slides for path in expand(given, say_aside, images=True)]
    reports = []
    for report in describe_slides(
        [SlideRef(path, override, virtual=True) for path in paths], common.config.tissue, out
    ):
        click.echo(report.text())
        reports.append(report)
    raise_on_problems(reports)
