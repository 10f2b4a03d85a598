"""`vstain evaluate`."""

from __future__ import annotations

from pathlib import Path

import click

from virtual_stain.cli.common import Common, LocationType, common_options
from virtual_stain.cli.many_options import Many, many_options
from virtual_stain.remote import Location


@click.command("evaluate")
@click.argument("places", nargs=-1, required=True, metavar="RUN… [DIR…]", type=LocationType())
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the results [default: RUN].")
@click.option("--beside", type=click.Path(path_type=Path), help="An evaluated run of the other path, to compare with.")
@many_options
@common_options
def command(places: tuple[Location, ...], out: Path | None, beside: Path | None, many: Many, common: Common) -> None:
    """Evaluate a run on patients it has never seen.

    Without DIR: the test fold of the records it was trained on. With DIR: those records, refused if a patient or a
    slide of them was used in training. Several runs, or several DIR, need --out: each has a folder there, and --out
    has evaluations.csv and index.html.

    \b
    vstain evaluate run/
    vstain evaluate run/ other-hospital/records/ --out run/other-hospital/
    vstain evaluate seed-1/ seed-2/ seed-3/ --out evaluated/
    vstain evaluate run/ hospital-a/ hospital-b/ --out evaluated/
    vstain evaluate indirect-run/ --beside run/
    """
    import dataclasses

    from virtual_stain.errors import ConfigError
    from virtual_stain.evaluation.evaluate import evaluate
    from virtual_stain.evaluation.summary import summary_lines
    from virtual_stain.workflows.evaluate_many import EvaluateManyOptions, evaluate_many, is_run, told

    first, *rest = places
    runs = [Path(str(place)) for place in (first, *filter(is_run, rest))]
    records = [place for place in rest if not is_run(place)]
    if beside is not None and (len(places) > 1 or out is not None or many.scheduler is not None):
        raise click.UsageError(
            "--beside: expected a RUN alone, of its own records and folder. Received also: DIR, --out or --scheduler"
        )
    scoring = common.config.scoring
    if len(runs) == 1 and len(records) <= 1 and many.scheduler is None:
        place = records[0] if records else None
        result = evaluate(runs[0], place, out, scoring=scoring, excel=many.excel, progress=common.progress)
        for line in summary_lines(result):
            click.echo(line)
        if beside is not None:
            from virtual_stain.evaluation.beside import compare_paths, comparison_lines

            for line in comparison_lines(compare_paths(runs[0], beside)):
                click.echo(line)
        return
    if out is None:
        raise ConfigError("expected a folder for the results of several evaluations. Received: none.", hint="--out DIR")
    options = EvaluateManyOptions(out=out, scoring=scoring, force=common.force, **dataclasses.asdict(many))
    evaluate_many(runs, records, options, progress=common.progress, done=lambda one: click.echo(told(one)))
