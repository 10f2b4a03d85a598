"""`vstain dicom`"""

from __future__ import annotations

from pathlib import Path

import click

from virtual_stain.cli.common import Common, common_options


@click.command("dicom")
@click.argument("report", metavar="REPORT.json", type=click.Path(path_type=Path))
@click.option("--source", required=True, type=click.Path(path_type=Path), help="The DICOM slide that was scored.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for the DICOM files.")
@common_options
def command(report: Path, source: Path, out: Path, common: Common) -> None:
    """Turn a report of a DICOM slide into a DICOM structured report and segmentations. Research use only.

    \b
    vstain dicom slide-vstain/slide.report.json --source slide.dcm --out dicom

    Needs the extra `dicom`. The files carry the slide's patient and study, as DICOM demands.
    """
    from virtual_stain.workflows.write_dicom import write_dicom

    for path in write_dicom(report, source, out, force=common.force):
        click.echo(path)
