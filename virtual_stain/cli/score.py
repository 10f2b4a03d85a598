"""`vstain score`"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from virtual_stain.cli.common import Common, common_options, parse_mpp, say_aside, with_any_stain
from virtual_stain.cli.many_options import Many, many_options, origin_option
from virtual_stain.cli.path_options import path_options


@click.command("score")
@click.argument("slides", nargs=-1, metavar="SLIDE…", type=click.Path(path_type=Path))
@click.option(
    "--model", envvar="VSTAIN_MODEL", help="Bundle folder, grpc://host:8500/NAME or http://… [env: VSTAIN_MODEL]."
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder for all results [default: ./<stem>-vstain each].")
@click.option("--mpp", help="Pixel size in µm/px, F or FX,FY, for slides that carry none or a wrong one.")
@click.option("--slides", "table", type=click.Path(path_type=Path), help="CSV with the columns slide,mpp,name.")
@click.option("--crops", type=click.Choice(["quadrants", "center"]), help="All of a tile, or its centre: 4 × faster.")
@click.option("--trusted-key", type=click.Path(path_type=Path), help="Public key that the bundle must be signed with.")
@click.option("--stage", type=click.Path(path_type=Path), help="Copy slides here ahead of use [default: off a share].")
@origin_option
@path_options
@click.option("--watch", is_flag=True, help="SLIDE is a folder: score what comes into it, until Ctrl-C.")
@many_options
@click.option("--force-unsuitable", is_flag=True, help="Also score what is not H&E; readings are flagged.")
@common_options
def command(
    slides: tuple[Path, ...],
    model: str | None,
    out: Path | None,
    mpp: str | None,
    table: Path | None,
    crops: str | None,
    way: dict[str, Any],
    watch: bool,
    many: Many,
    force_unsuitable: bool,
    common: Common,
    **given: Any,
) -> None:
    """Score H&E slides with a model. Research use only.

    \b
    vstain score slide.ndpi --model MODEL
    vstain score slides/ --model grpc://host:8500/ki67 --out results
    vstain score crop.png --mpp 0.5 --model MODEL
    vstain score --watch scanner/ --model MODEL --out results

    SLIDE is a file, a folder or a quoted pattern. Writes per slide <stem>.report.json, .tiles.csv, .heatmap.png,
    .geojson and .report.html, of several scores.csv and index.html, worst first. Finished slides are left alone.
    """
    import dataclasses

    from virtual_stain.errors import ConfigError
    from virtual_stain.workflows.score_command import score_given
    from virtual_stain.workflows.score_slides import ScoreOptions

    if not model:
        raise ConfigError("expected a model.", hint="vstain score SLIDE --model MODEL, or set VSTAIN_MODEL.")
    scoring = with_any_stain(common.config, force_unsuitable).scoring
    options = ScoreOptions(
        model=model,
        scoring=dataclasses.replace(scoring, crops=crops or scoring.crops),
        tissue=common.config.tissue,
        jobs=common.jobs,
        force=common.force,
        fail_fast=many.fail_fast,
        excel=many.excel,
        **given,
    )

    where: dict[str, Any] = {"out": out, "mpp": parse_mpp(mpp), "scheduler": many.scheduler, "watching": watch}
    say: dict[str, Any] = {"progress": common.progress, "say": click.echo, "say_aside": say_aside}
    score_given(slides, table, options, counting=common.config.counting, **way, **where, **say)
