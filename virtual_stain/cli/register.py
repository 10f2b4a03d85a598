"""`vstain register`."""

from __future__ import annotations

from pathlib import Path

import click

from virtual_stain.cli.common import Common, common_options, parse_mpp


@click.command(name="register")
@click.argument("he", type=click.Path(path_type=Path))
@click.argument("ihc", type=click.Path(path_type=Path))
@click.option("--out", "out", type=click.Path(path_type=Path), required=True, help="Folder for the results.")
@click.option("--mpp-he", metavar="F or FX,FY", help="Pixel size of HE in µm, where the file has none or a wrong one.")
@click.option("--mpp-ihc", metavar="F or FX,FY", help="Pixel size of IHC in µm.")
@common_options
def command(he: Path, ihc: Path, out: Path, mpp_he: str | None, mpp_ihc: str | None, common: Common) -> None:
    """Find where each place of the slide HE lies on the slide IHC, and how surely.

    Writes registration.json, registration.h5 and overlay.jpg. A pair that cannot be registered is written too, with
    the verdict "reject", and ends with exit code 3.

    \b
    vstain register block7-he.ndpi block7-ki67.ndpi --out block7
    vstain register he.jpg ihc.jpg --mpp-he 3.5 --mpp-ihc 3.5 --out pair
    """
    from virtual_stain.registration.job import RegistrationJob, register_files
    from virtual_stain.registration.result import summary
    from virtual_stain.slides.slide import SlideRef

    job = RegistrationJob(
        he=SlideRef(he, parse_mpp(mpp_he)),
        ihc=SlideRef(ihc, parse_mpp(mpp_ihc)),
        out=out,
        config=common.config,
        force=common.force,
    )
    registration = register_files(job, common.progress)
    click.echo(summary(registration))
    click.echo(f"overlay: {out / 'overlay.jpg'}")
    registration.raise_if_rejected()
