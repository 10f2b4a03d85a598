"""`vstain demo`."""

from __future__ import annotations

from pathlib import Path

import click

from virtual_stain.cli.common import Common, common_options


@click.command("demo")
@click.option("--out", type=click.Path(path_type=Path), default=Path("demo-out"), show_default=True, help="Folder.")
@click.option("--full", is_flag=True, help="More patients and a longer training: an hour instead of 10 minutes.")
@click.option("--small", is_flag=True, help="Only shows that the installation works: three minutes, no figures.")
@click.option("--indirect", is_flag=True, help="Also the indirect path and virtual slides; --full has them anyway.")
@common_options
def command(out: Path, full: bool, small: bool, indirect: bool, common: Common) -> None:
    """All of it on synthetic slide pairs, each stage compared with the truth.

    \b
    vstain demo --out demo-out
    vstain demo --out demo-full --full
    vstain demo --out demo-indirect --indirect

    Makes phantoms, registers and counts them, writes records, trains, evaluates on patients held out, exports the
    model and scores slides with it. Finished stages are not done again.
    """
    from virtual_stain.config import Config
    from virtual_stain.errors import ConfigError
    from virtual_stain.workflows.demo.picture import write_flow_picture
    from virtual_stain.workflows.demo.plan import DEFAULT, FULL, INDIRECT, SMALL
    from virtual_stain.workflows.demo.run import run_demo
    from virtual_stain.workflows.demo.summary import summary_text, write_result

    if common.config != Config():
        raise ConfigError(
            "the demo has its own configuration: --config and --set are not taken.",
            hint="Try settings with the single commands on its folders, e.g. vstain fit demo-out/records --out run.",
        )
    if full and small:
        raise click.UsageError("Expected --full or --small. Received: both")
    if small and indirect:
        raise click.UsageError("Expected --small or --indirect: three minutes train no generator. Received: both")
    plan = FULL if full else SMALL if small else INDIRECT if indirect else DEFAULT
    result = run_demo(out, plan, jobs=common.jobs, force=common.force, progress=common.progress)
    write_result(result)
    write_flow_picture(result)
    click.echo(summary_text(result))
