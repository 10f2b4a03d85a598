"""`vstain evaluate`."""

from __future__ import annotations

from pathlib import Path

import click

from virtual_stain.cli.common import Common, LocationType, common_options
from virtual_stain.remote import Location


@click.command("evaluate")
@click.argument("run_dir", metavar="RUN", type=click.Path(path_type=Path))
@click.argument("records", metavar="[DIR]", required=False, type=LocationType())
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the results [default: RUN].")
@click.option("--beside", type=click.Path(path_type=Path), help="An evaluated run of the other path, to compare with.")
@common_options
def command(run_dir: Path, records: Location | None, out: Path | None, beside: Path | None, common: Common) -> None:
    """Evaluate a run on patients it has never seen.

    Without DIR: the test fold of the records it was trained on. With DIR: those records, refused if a patient or a
    slide of them was used in training.

    \b
    vstain evaluate run/
    vstain evaluate run/ other-hospital/records/ --out run/other-hospital/
    vstain evaluate indirect-run/ --beside run/
    """
    from virtual_stain.evaluation.evaluate import evaluate
    from virtual_stain.evaluation.summary import summary_lines

    if beside is not None and (records is not None or out is not None):
        raise click.UsageError(
            "--beside: expected a RUN alone, of its own records and folder. Received also: DIR or --out"
        )
    result = evaluate(run_dir, records, out, scoring=common.config.scoring, progress=common.progress)
    for line in summary_lines(result):
        click.echo(line)
    if beside is not None:
        from virtual_stain.evaluation.beside import compare_paths, comparison_lines

        for line in comparison_lines(compare_paths(run_dir, beside)):
            click.echo(line)
