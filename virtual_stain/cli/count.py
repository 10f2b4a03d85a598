"""`vstain count`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from virtual_stain.cli.common import Common, common_options, parse_mpp, say_aside
from virtual_stain.cli.many_options import Many, many_options, origin_option


@click.command(name="count")
@click.argument("slides", nargs=-1, metavar="SLIDE…", type=click.Path(path_type=Path))
@click.option("--marker", help="What the slides are stained for: ki67, er, pr, her2 or pdl1.")
@click.option("--out", "out", type=click.Path(path_type=Path), required=True, help="Folder for the results.")
@click.option("--roi", type=click.Path(path_type=Path), help="Tumour region: QuPath GeoJSON, or a mask of the scan.")
@click.option("--region-model", metavar="MODULE:NAME", help="Your own tumour region model, a Python object.")
@click.option("--cells", type=click.Path(path_type=Path), help="Cells of QuPath, StarDist or any CSV, to be measured.")
@click.option("--mpp", metavar="F or FX,FY", help="Pixel size in µm, where the file has none or a wrong one.")
@origin_option
@click.option("--full-overlay", is_flag=True, help="Also overlay.ome.tif: all outlines at full resolution.")
@click.option("--virtual", is_flag=True, help="Also count virtual slides, for a look: they are predictions, no stain.")
@click.option("--slides", "table", type=click.Path(path_type=Path), help="CSV slide,marker,mpp,roi,cells,name.")
@many_options
@common_options
def command(
    slides: tuple[Path, ...],
    marker: str | None,
    region_model: str | None,
    mpp: str | None,
    virtual: bool,
    table: Path | None,
    many: Many,
    common: Common,
    **request: Any,
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
    import dataclasses

    from virtual_stain.markers import Marker, parse_marker
    from virtual_stain.slides.slide import SlideRef
    from virtual_stain.workflows.count_command import count_given
    from virtual_stain.workflows.count_many import CountManyOptions, is_many
    from virtual_stain.workflows.count_slide import CountRequest

    if request["roi"] is not None and region_model is not None:
        raise click.UsageError("Expected --roi or --region-model. Received: both")
    if not slides and table is None:
        raise click.UsageError("Missing argument 'SLIDE…'.")
    if marker is None and not is_many(slides, table):
        raise click.UsageError("Missing option '--marker': ki67, er, pr, her2 or pdl1.")
    fixed = CountRequest(
        slide=SlideRef(slides[0] if slides else Path(), parse_mpp(mpp), virtual=virtual),
        marker=Marker.KI67 if marker is None else parse_marker(marker),  # of a table, whose rows must state it then
        **request,
    )
    run = {"jobs": common.jobs, "force": common.force, **dataclasses.asdict(many)}
    options = CountManyOptions(out=fixed.out, config=common.config, region_model=region_model, **run)
    say: dict[str, Any] = {"progress": common.progress, "say": click.echo, "say_aside": say_aside}
    count_given(slides, table, fixed, options, marker_given=marker is not None, **say)
