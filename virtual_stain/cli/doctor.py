"""`vstain doctor`."""

from __future__ import annotations

import click

from virtual_stain.cli.common import Common, common_options


@click.command(name="doctor")
@common_options
def command(common: Common) -> None:
    """Say what is installed, what loads, which devices there are, what is missing and the command that mends it.

    Ends with a non-zero exit code when something needed is missing.

    \b
    vstain doctor
    """
    from virtual_stain.workflows.doctor import examine, raise_on_missing

    checks = []
    for check in examine():
        click.echo(check.text())
        checks.append(check)
    raise_on_missing(checks)
    click.echo("Everything that is needed is there.")
