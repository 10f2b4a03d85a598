"""`vstain review`."""

from __future__ import annotations

from pathlib import Path

import click

from virtual_stain.cli.common import Common, common_options


@click.command("review")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--reviewer", help="Whose verdicts these are; the page asks otherwise.")
@click.option("--port", type=click.IntRange(0, 65535), help="TCP port; 0: any free one [default: web.port].")
@click.option("--no-browser", is_flag=True, help="Only print the address.")
@click.option(
    "--export",
    "export",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Write verdicts: .csv, or a folder of .geojson.",
)
@click.option(
    "--import", "take", metavar="FILE", type=click.Path(path_type=Path), help="Take verdicts in: .csv or .geojson."
)
@click.option("--agreement", is_flag=True, help="Print how far readers agree on shared tiles.")
@click.option("--excel", is_flag=True, help="With --export: a table that a spreadsheet shows with its umlauts.")
@common_options
def command(
    folder: Path,
    reviewer: str | None,
    port: int | None,
    no_browser: bool,
    export: Path | None,
    take: Path | None,
    agreement: bool,
    excel: bool,
    common: Common,
) -> None:
    """Review the labels of a folder of records in the browser; verdicts go to DIR/review.sqlite.

    \b
    vstain review records
    vstain review records --reviewer "Dr. A" --port 0 --no-browser
    vstain review records --export review.csv
    vstain build-records PAIRS.csv --out records     (takes the verdicts from there)
    """
    from virtual_stain.cli.web_extra import require_web

    require_web()
    from virtual_stain.web.review.command import exchange, serve_review

    if export is not None or take is not None or agreement:
        for line in exchange(folder, export=export, take=take, reviewer=reviewer, agreement=agreement, excel=excel):
            click.echo(line)
        return
    serve_review(folder, common.config.web, port=port, reviewer=reviewer or "", browser=not no_browser, say=click.echo)
