"""Register one share of a table of pairs: for a cluster array. (`vstain register PAIRS.csv` does all of it at once.)

    python tools/register_pairs.py PAIRS.csv --out registered --share 0/8 --jobs 4      (… 7/8)

Each pair gets the folder `registered/<pair>` that `vstain register` would write. One bad pair never stops the others;
the exit code is 6 when one is rejected or failed. The table of a share is `summary-0-of-8.csv`; afterwards run
`vstain register PAIRS.csv --out registered` once: finished pairs are kept, and index.html shows all of them.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from virtual_stain.cli.common import Common, common_options
from virtual_stain.errors import VirtualStainError


@click.command()
@click.argument("pairs", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--share", default="0/1", help="Which share of the table, as N/M.")
@common_options
def main(pairs: Path, out: Path, share: str, common: Common) -> None:
    """Register a share of PAIRS.csv."""
    from virtual_stain.workflows.register_command import RegisterOptions, run_cohort

    number, _, of = share.partition("/")
    if not (number.isdigit() and of.isdigit() and int(number) < int(of)):
        raise click.BadParameter(f"--share: expected N/M with N < M, as 0/8. Received: {share!r}")
    options = RegisterOptions(out=out, config=common.config, force=common.force, jobs=common.jobs)
    run_cohort(pairs, options, common.progress, click.echo, int(number), int(of))


if __name__ == "__main__":
    try:
        main(standalone_mode=False)
    except VirtualStainError as error:
        click.echo(f"register_pairs: {error}", err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
