"""`vstain build-records`."""

from __future__ import annotations

from pathlib import Path

import click

from virtual_stain.cli.common import Common, common_options, with_any_stain
from virtual_stain.cli.many_options import Many, many_options


@click.command("build-records")
@click.argument("pairs", metavar="PAIRS.csv | FOLDER", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of records.")
@click.option("--verdicts", type=click.Path(path_type=Path), help="CSV of people's verdicts on tiles.")
@click.option("--accept-unreviewed", is_flag=True, help="Do without verdicts; recorded in the manifest.")
@many_options
@click.option("--force-unsuitable", is_flag=True, help="Also slides whose colours say that they are swapped.")
@common_options
def command(
    pairs: Path,
    out: Path,
    verdicts: Path | None,
    accept_unreviewed: bool,
    many: Many,
    force_unsuitable: bool,
    common: Common,
) -> None:
    """From slide pairs to reviewed TFRecords: register, tile, count, label, review, pack. Resumable.

    \b
    vstain build-records PAIRS.csv --out records
    (fill in records/review-template.csv)
    vstain build-records PAIRS.csv --out records --verdicts records/review-template.csv

    PAIRS.csv: pair,patient,marker,he,ihc and optionally he_mpp,ihc_mpp,fold,he_roi,ihc_roi. FOLDER: slides named like
    block7_he.ndpi and block7_ki67.ndpi, as `vstain register` takes them; each name is then a patient of its own.
    """
    from virtual_stain.workflows.build_records import BuildOptions, build_records

    options = BuildOptions(
        verdicts=verdicts,
        accept_unreviewed=accept_unreviewed,
        force=common.force,
        jobs=common.jobs,
        scheduler=many.scheduler,
        fail_fast=many.fail_fast,
        excel=many.excel,
    )
    result = build_records(
        pairs, out, with_any_stain(common.config, force_unsuitable), options, progress=common.progress
    )
    manifest = result.manifest
    click.echo(f"{manifest.n_records} records of {len(manifest.pairs)} pairs: {out / 'manifest.json'}")
    for excluded in manifest.excluded:
        click.echo(f"{excluded.pair}: no records: {excluded.reason}")
    click.echo(f"Look at {out / 'summary.html'}, and at {out / 'index.html'} for every pair, worst first")
