"""`vstain serving check`."""

from __future__ import annotations

from pathlib import Path

import click

from virtual_stain.cli.common import Common, common_options


@click.group("serving")
def command() -> None:
    """Check a model server.

    \b
    vstain serving check localhost --model ki67 --bundle models/ki67
    """


@command.command("check")
@click.argument("host")
@click.option("--model", "name", required=True, help="The model's name in the server's models.config.")
@click.option("--grpc-port", type=click.IntRange(1, 65535), default=8500, show_default=True)
@click.option("--rest-port", type=click.IntRange(1, 65535), default=8501, show_default=True)
@click.option("--bundle", type=click.Path(path_type=Path), help="The exported model, to compare readings with.")
@common_options
def check(host: str, name: str, grpc_port: int, rest_port: int, bundle: Path | None, common: Common) -> None:
    """Whether the TF Serving at HOST is fit for `vstain score`: one line a check; ends with 5 where one fails.

    \b
    vstain serving check localhost --model ki67 --bundle models/ki67
    """
    from virtual_stain.workflows.check_serving import Server, check_server

    check_server(Server(host, name, grpc_port, rest_port), bundle, click.echo)
