"""`vstain count`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from virtual_stain.cli.common import Common, Many, common_options, many_options, parse_mpp, say_aside

if TYPE_CHECKING:
    from virtual_stain.workflows.count_slide import CountRequest


@click.command(name="count")
@click.argument("slides", nargs=-1, metavar="SLIDE…", type=click.Path(path_type=Path))
@click.option("--marker", help="What the slides are stained for: ki67, er, pr, her2 or pdl1.")
@click.option("--out", "out", type=click.Path(path_type=Path), required=True, help="Folder for the results.")
@click.option("--roi", type=click.Path(path_type=Path), help="Tumour region: QuPath GeoJSON, or a mask of the scan.")
@click.option("--region-model", metavar="MODULE:NAME", help="Your own tumour region model, a Python object.")
@click.option(
    "--cells",
    type=click.Path(path_type=Path),
    help="Cells of another detector, to be measured: QuPath GeoJSON or TSV, StarDist .npz, any CSV.",
)
@click.option("--mpp", metavar="F or FX,FY", help="Pixel size in µm, where the file has none or a wrong one.")
@click.option(
    "--geojson-origin",
    type=click.Choice(["bounds", "slide"]),
    default="bounds",
    show_default=True,
    help="Where GeoJSON counts from: the corner of the scan (as QuPath does) or of the whole slide.",
)
@click.option("--full-overlay", is_flag=True, help="Also overlay.ome.tif: all outlines at full resolution.")
@click.option("--virtual", is_flag=True, help="Also count virtual slides, for a look: they are predictions, no stain.")
@click.option("--slides", "table", type=click.Path(path_type=Path), help="CSV slide,marker,mpp,roi,cells,name.")
@many_options
@click.option("--excel", is_flag=True, help="Write counts.csv so that a spreadsheet shows umlauts right (UTF-8 mark).")
@common_options
def command(
    slides: tuple[Path, ...],
    marker: str | None,
    out: Path,
    roi: Path | None,
    region_model: str | None,
    cells: Path | None,
    mpp: str | None,
    geojson_origin: str,
    full_overlay: bool,
    virtual: bool,
    table: Path | None,
    excel: bool,
    many: Many,
    common: Common,
) -> None:
    """Count positive and negative tumour cells on IHC slides.

    SLIDE is a file, a folder, a quoted pattern, or a table slide,marker,mpp,roi,cells,name. Of one file, the results
    stand in DIR. Of more, those of each slide stand in DIR/<name>, and DIR has counts.csv and index.html, worst first.

    Writes count.html (one page to look at), cells.csv, cells.geojson (opens in QuPath), summary.json, overlay.jpg,
    overlay_full.jpg, stain.png and run.json. Without --roi or --region-model, the nuclei and their neighbourhood decide
    what is a tumour cell.

    \b
    vstain count block7-ki67.ndpi --marker ki67 --out block7-count
    vstain count field.png --marker er --mpp 0.25 --roi tumour.geojson --out field-count
    vstain count block7-her2.svs --marker her2 --cells qupath-cells.geojson --out block7-her2-count
    vstain count slides/ "more/*.svs" --marker ki67 --out counted
    vstain count slides.csv --out counted
    """
    from virtual_stain.counting.region_model import load_region_model
    from virtual_stain.errors import ConfigError
    from virtual_stain.markers import Marker, parse_marker
    from virtual_stain.slides.slide import SlideRef
    from virtual_stain.workflows.count_many import is_many
    from virtual_stain.workflows.count_slide import CountRequest, count_slide
    from virtual_stain.workflows.count_summary import describe

    if roi is not None and region_model is not None:
        raise click.UsageError("Expected --roi or --region-model. Received: both")
    if not slides and table is None:
        raise click.UsageError("Missing argument 'SLIDE…'.")
    several = is_many(slides, table) or many.scheduler is not None
    if marker is None and not several:
        raise click.UsageError("Missing option '--marker': ki67, er, pr, her2 or pdl1.")
    request = CountRequest(
        slide=SlideRef(slides[0] if slides else Path(), parse_mpp(mpp), virtual=virtual),
        marker=Marker.KI67 if marker is None else parse_marker(marker),  # of a table, whose rows must state it then
        out=out,
        roi=roi,
        cells=cells,
        geojson_origin=geojson_origin,
        full_overlay=full_overlay,
    )
    if not several:
        model = None if region_model is None else load_region_model(region_model)
        summary = count_slide(
            request, common.config, jobs=common.jobs, force=common.force, progress=common.progress, region_model=model
        )
        click.echo(describe(summary, out))
        return
    for name, path in (("--roi", roi), ("--cells", cells)):
        if path is not None:
            raise ConfigError(
                f"{name}: expected with one slide. Received: with several.",
                hint="A table states it for each slide: slide,marker,mpp,roi,cells,name",
            )
    _count_many(slides, table, request, marker is not None, region_model, excel, many, common)


def _count_many(
    slides: tuple[Path, ...],
    table: Path | None,
    request: CountRequest,
    marker_given: bool,
    region_model: str | None,
    excel: bool,
    many: Many,
    common: Common,
) -> None:
    from virtual_stain.workflows.count_many import CountManyOptions, collect_requests, count_many, told

    requests = collect_requests(slides, table, request, marker_given=marker_given, say=say_aside)
    options = CountManyOptions(
        out=request.out,
        config=common.config,
        region_model=region_model,
        jobs=common.jobs,
        force=common.force,
        fail_fast=many.fail_fast,
        scheduler=many.scheduler,
        excel=excel,
    )
    try:
        count_many(requests, options, progress=common.progress, done=lambda one: click.echo(told(one)))
    finally:
        click.echo(f"page: {request.out / 'index.html'}")
