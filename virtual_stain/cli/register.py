"""`vstain register`."""

from __future__ import annotations

from pathlib import Path

import click

from virtual_stain.cli.common import Common, common_options, parse_mpp
from virtual_stain.cli.many_options import Many, many_options


@click.command(name="register")
@click.argument(
    "sources", nargs=-1, required=True, metavar="HE IHC | PAIRS.csv | FOLDER", type=click.Path(path_type=Path)
)
@click.option("--out", "out", type=click.Path(path_type=Path), required=True, help="Folder for the results.")
@click.option(
    "--mpp", metavar="F or FX,FY", help="Pixel size of both slides in µm, where they have none or a wrong one."
)
@click.option("--mpp-he", metavar="F or FX,FY", help="Pixel size of HE in µm, where the file has none or a wrong one.")
@click.option("--mpp-ihc", metavar="F or FX,FY", help="Pixel size of IHC in µm.")
@click.option("--landmarks", type=click.Path(path_type=Path), help="CSV he_x,he_y,ihc_x,ihc_y[,pair]: where to start.")
@click.option("--section", type=click.IntRange(1, 9), help="Which of several sections on the IHC slide, as listed.")
@click.option("--aligned", is_flag=True, help="Also write the IHC under the H&E as aligned.ome.tif, for QuPath.")
@click.option("--aligned-mpp", type=float, help="Pixel size of aligned.ome.tif in µm [default: that of the H&E].")
@many_options
@common_options
def command(
    sources: tuple[Path, ...],
    out: Path,
    landmarks: Path | None,
    section: int | None,
    aligned: bool,
    many: Many,
    common: Common,
    **texts: str | float | None,
) -> None:
    """Find where each place of the slide HE lies on the slide IHC, and how surely.

    Writes registration.json, registration.h5, overlay.jpg and registration.html. A pair that cannot be registered is
    written too, with the verdict "reject", and ends with exit code 3. A table PAIRS.csv, or a folder of slides named
    like block7_he.ndpi and block7_ki67.ndpi: each pair into a folder of its own, and index.html, worst first.

    \b
    vstain register block7-he.ndpi block7-ki67.ndpi --out block7
    vstain register he.jpg ihc.jpg --mpp-he 3.5 --mpp-ihc 3.5 --out pair --landmarks three-places.csv
    vstain register PAIRS.csv --out registered --jobs 4
    """
    from virtual_stain.workflows.register_command import RegisterOptions, require_aligned_mpp, run_cohort, run_pair

    both, coarser = texts["mpp"], texts["aligned_mpp"]
    mpp_he, mpp_ihc = texts["mpp_he"] or both, texts["mpp_ihc"] or both
    if coarser is not None:
        require_aligned_mpp(float(coarser))
    options = RegisterOptions(
        out=out,
        config=common.config,
        landmarks=landmarks,
        section=section,
        mpp_he=parse_mpp(None if mpp_he is None else str(mpp_he), coarse=True),
        mpp_ihc=parse_mpp(None if mpp_ihc is None else str(mpp_ihc), coarse=True),
        aligned_mpp=float(coarser) if coarser is not None else 0.0 if aligned else None,
        force=common.force,
        jobs=common.jobs,
        excel=many.excel,
        fail_fast=many.fail_fast,
        scheduler=many.scheduler,
    )
    if len(sources) > 2:
        raise click.UsageError("Expected HE and IHC, or one table or folder. Quote paths with spaces.")
    if len(sources) == 1:
        run_cohort(sources[0], options, common.progress, click.echo)
    else:
        run_pair(sources[0], sources[1], options, common.progress, click.echo)
