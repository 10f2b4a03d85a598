"""`vstain count`."""

from __future__ import annotations

from pathlib import Path

import click

from virtual_stain.cli.common import Common, common_options, parse_mpp


@click.command(name="count")
@click.argument("slide", type=click.Path(path_type=Path))
@click.option("--marker", required=True, help="What the slide is stained for: ki67, er, pr, her2 or pdl1.")
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
@common_options
def command(
    slide: Path,
    marker: str,
    out: Path,
    roi: Path | None,
    region_model: str | None,
    cells: Path | None,
    mpp: str | None,
    geojson_origin: str,
    full_overlay: bool,
    common: Common,
) -> None:
    """Count positive and negative tumour cells on the IHC slide SLIDE.

    Writes count.html (one page to look at), cells.csv, cells.geojson (opens in QuPath), summary.json, overlay.jpg,
    overlay_full.jpg, stain.png and run.json. Without --roi or --region-model, the nuclei and their neighbourhood decide
    what is a tumour cell.

    \b
    vstain count block7-ki67.ndpi --marker ki67 --out block7-count
    vstain count field.png --marker er --mpp 0.25 --roi tumour.geojson --out field-count
    vstain count block7-her2.svs --marker her2 --cells qupath-cells.geojson --out block7-her2-count
    """
    from virtual_stain.counting.region_model import load_region_model
    from virtual_stain.markers import parse_marker
    from virtual_stain.slides.slide import SlideRef
    from virtual_stain.workflows.count_slide import CountRequest, count_slide
    from virtual_stain.workflows.count_summary import describe

    if roi is not None and region_model is not None:
        raise click.UsageError("Expected --roi or --region-model. Received: both")
    request = CountRequest(
        slide=SlideRef(slide, parse_mpp(mpp)),
        marker=parse_marker(marker),
        out=out,
        roi=roi,
        cells=cells,
        geojson_origin=geojson_origin,
        full_overlay=full_overlay,
    )
    model = None if region_model is None else load_region_model(region_model)
    summary = count_slide(
        request, common.config, jobs=common.jobs, force=common.force, progress=common.progress, region_model=model
    )
    click.echo(describe(summary, out))
