"""`vstain score`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from virtual_stain.cli.common import Common, Many, common_options, many_options, parse_mpp, say_aside, with_any_stain

if TYPE_CHECKING:
    from virtual_stain.workflows.score_addition import Addition


@click.command("score")
@click.argument("slides", nargs=-1, metavar="SLIDE…", type=click.Path(path_type=Path))
@click.option(
    "--model",
    envvar="VSTAIN_MODEL",
    help="Bundle folder, grpc://host:8500/name or http://host:8501/v1/models/name [env: VSTAIN_MODEL].",
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder for all results [default: ./<stem>-vstain each].")
@click.option("--mpp", help="Pixel size in µm/px, F or FX,FY, for slides that carry none or a wrong one.")
@click.option("--slides", "table", type=click.Path(path_type=Path), help="CSV with the columns slide,mpp,name.")
@click.option("--crops", type=click.Choice(["quadrants", "center"]), help="All of a tile, or its centre: 4 × faster.")
@click.option("--trusted-key", type=click.Path(path_type=Path), help="Public key that the bundle must be signed with.")
@click.option("--stage", type=click.Path(path_type=Path), help="Copy slides here ahead of use [default: off a share].")
@click.option(
    "--geojson-origin",
    type=click.Choice(["bounds", "slide"]),
    default="bounds",
    show_default=True,
    help="Frame of the GeoJSON: level-0 px from the corner of the scan (as QuPath counts) or of the whole slide.",
)
@click.option("--virtual-slide", is_flag=True, help="Also <stem>.<marker>.virtual.ome.tif, drawn by an indirect model.")
@click.option("--watch", is_flag=True, help="SLIDE is a folder: score what comes into it, until Ctrl-C.")
@many_options
@click.option("--force-unsuitable", is_flag=True, help="Also score what is not H&E; readings are flagged.")
@click.option("--excel", is_flag=True, help="Write scores.csv so that a spreadsheet shows umlauts right (UTF-8 mark).")
@common_options
def command(
    slides: tuple[Path, ...],
    model: str | None,
    out: Path | None,
    mpp: str | None,
    table: Path | None,
    crops: str | None,
    trusted_key: Path | None,
    stage: Path | None,
    geojson_origin: str,
    virtual_slide: bool,
    watch: bool,
    many: Many,
    force_unsuitable: bool,
    excel: bool,
    common: Common,
) -> None:
    """Score H&E slides with a model. Research use only.

    \b
    vstain score slide.ndpi --model MODEL
    vstain score slides/ --model grpc://host:8500/ki67 --out results
    vstain score crop.png --mpp 0.5 --model MODEL
    vstain score --watch scanner/ --model MODEL --out results

    SLIDE is a file, a folder or a quoted pattern. Writes per slide <stem>.report.json, .tiles.csv, .heatmap.png,
    .geojson (QuPath) and .report.html, of several slides scores.csv and index.html, worst first. Finished slides are
    left alone (--force).
    """
    import dataclasses

    from virtual_stain.errors import ConfigError
    from virtual_stain.scoring.inputs import collect_inputs
    from virtual_stain.workflows.score_many import score_many
    from virtual_stain.workflows.score_slides import Scored, ScoreOptions, told

    if not model:
        raise ConfigError("expected a model.", hint="vstain score SLIDE --model MODEL, or set VSTAIN_MODEL.")
    scoring = with_any_stain(common.config, force_unsuitable).scoring
    options = ScoreOptions(
        model=model,
        scoring=dataclasses.replace(scoring, crops=crops or scoring.crops),
        trusted_key=trusted_key,
        stage=stage,
        tissue=common.config.tissue,
        geojson_origin=geojson_origin,
        excel=excel,
        jobs=common.jobs,
        force=common.force,
        fail_fast=many.fail_fast,
        addition=_virtual_slides(common) if virtual_slide else None,
    )

    def say(scored: Scored) -> None:
        click.echo(told(scored))

    if watch:
        from virtual_stain.workflows.score_watch import watch as watch_folder

        if len(slides) != 1 or table is not None or out is None or many.scheduler is not None:
            raise click.UsageError("--watch: expected one folder and --out, and no --slides or --scheduler.")
        watch_folder(slides[0], out, options, mpp=parse_mpp(mpp), progress=common.progress, done=say)
        return
    tables = [path for path in slides if path.suffix.lower() in (".csv", ".tsv")]
    if tables and (table is not None or len(tables) > 1):
        raise click.UsageError("Expected one table of slides.")
    named = [path for path in slides if path not in tables]
    inputs = collect_inputs(named, tables[0] if tables else table, out=out, mpp=parse_mpp(mpp), say=say_aside)
    score_many(inputs, options, scheduler=many.scheduler, progress=common.progress, done=say)


def _virtual_slides(common: Common) -> Addition:
    from virtual_stain.workflows.score_virtual import VirtualSlides

    return VirtualSlides(common.config.counting)
