"""`vstain fit`."""

from __future__ import annotations

from pathlib import Path

import click

from virtual_stain.cli.common import Common, common_options


@click.command("fit")
@click.argument("records", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--out", "run_dir", required=True, metavar="RUN", type=click.Path(path_type=Path), help="Folder to make.")
@click.option("--fold", type=int, default=0, show_default=True, help="Test fold; the next one validates.")
@click.option("--resume", is_flag=True, help="Go on with an interrupted run (begins one where there is none).")
@common_options
def command(records: Path, run_dir: Path, fold: int, resume: bool, common: Common) -> None:
    """Train a model on a folder of records.

    Patients are never on two sides: fold K tests, fold K + 1 chooses the checkpoint, the rest trains.

    \b
    vstain fit records/ --out run/ --config configs/ki67_finetune.toml
    vstain fit records/ --out run/ --config configs/ki67_finetune.toml --resume
    """
    from virtual_stain.training.fit import fit

    result = fit(
        records, run_dir, common.config, fold=fold, resume=resume, force=common.force, progress=common.progress
    )
    click.echo(
        f"{result.run_dir}: {result.steps} steps in {result.seconds / 60:.1f} min; stopped at {result.reason}.\n"
        f"Best validation loss {result.best_validation_loss:.4f} at step {result.best_step}.\n"
        f"Next: vstain evaluate {result.run_dir}"
    )
