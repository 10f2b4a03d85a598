"""`vstain serve`."""

from __future__ import annotations

from pathlib import Path

import click

from virtual_stain.cli.common import Common, common_options


@click.command("serve")
@click.option("--root", type=click.Path(path_type=Path), help="Folder of slides to choose from [default: web.root].")
@click.option(
    "--model", "models", multiple=True, metavar="[NAME=]MODEL", help="As `vstain score` takes it; repeatable."
)
@click.option(
    "--out", type=click.Path(path_type=Path), default="vstain-serve", show_default=True, help="Jobs, results."
)
@click.option("--port", type=click.IntRange(0, 65535), help="TCP port; 0: any free one [default: web.port].")
@click.option(
    "--root-path", metavar="PATH", help="Path below which a proxy offers the pages: /vstain [default: web.root_path]."
)
@click.option("--no-browser", is_flag=True, help="Only print the address.")
@common_options
def command(
    root: Path | None,
    models: tuple[str, ...],
    out: Path,
    port: int | None,
    root_path: str | None,
    no_browser: bool,
    common: Common,
) -> None:
    """Score slides in the browser: submit, watch, look at the result. Research use only.

    \b
    vstain serve --root slides --model MODEL
    vstain serve --root slides --model ki67=models/ki67 --model er=models/er --out served
    VSTAIN_WEB_TOKEN=… vstain serve --root slides --model MODEL --set web.host=0.0.0.0

    --jobs is the number of threads that read tiles. Jobs survive a restart with the same --out.
    """
    from virtual_stain.cli.web_extra import require_web

    require_web()
    from virtual_stain.web.serve.command import ServeOptions, run_server

    options = ServeOptions(
        out=out, root=root, models=models, port=port, root_path=root_path, jobs=common.jobs, browser=not no_browser
    )
    run_server(common.config, options, click.echo)
