"""`vstain panel`"""

from __future__ import annotations

from pathlib import Path

import click

from virtual_stain.cli.common import Common, common_options


@click.command("panel")
@click.argument("files", nargs=-1, metavar="[REPORT.json | summary.json]…", type=click.Path(path_type=Path))
@click.option("--given", multiple=True, metavar="MARKER=VALUE", help="A laboratory's result: er=92%, her2=2+, …")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for panel.html and panel.json.")
@click.option(
    "--reading",
    type=click.Choice(["global_ratio", "global_mean", "top_mean"]),
    default="global_ratio",
    show_default=True,
    help="Which reading of a report counts; the interval belongs to global_ratio.",
)
@click.option("--title", default="", help="Heading of the page [default: the slides' names].")
@common_options
def command(
    files: tuple[Path, ...], given: tuple[str, ...], out: Path, reading: str, title: str, common: Common
) -> None:
    """Join markers of one lesion into one page with the classes of published rule sets. Research use only.

    \b
    vstain panel a-vstain/a.report.json --out panel
    vstain panel ki67.report.json er-count/summary.json --given pr=35% --given her2=2+ --given her2-ish=negative --out p

    Reports are those of `vstain score`, summaries those of `vstain count`. A class is "indeterminate" when an interval
    crosses a cut-off, a marker is missing that decides, or HER2 is 2+ without ISH. Rule sets: ASCO/CAP, IKWG, St Gallen
    2013, Maisonneuve 2014.
    """
    from virtual_stain.workflows.make_panel import PanelRequest, make_panel, panel_lines

    panel, findings = make_panel(PanelRequest(files, given, out, reading, title, common.force))
    for line in panel_lines(panel, findings):
        click.echo(line)
    click.echo(f"page: {out / 'panel.html'}")
