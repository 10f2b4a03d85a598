"""`vstain fit`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from virtual_stain.cli.common import Common, LocationType, common_options
from virtual_stain.remote import Location


@click.command("fit")
@click.argument("records", metavar="DIR", type=LocationType())
@click.option("--out", "run_dir", required=True, metavar="RUN", type=click.Path(path_type=Path), help="Folder to make.")
@click.option("--fold", type=int, default=None, help="Test fold; the next one validates [default: 0].")
@click.option("--cv", type=int, default=None, metavar="K", help="Cross-validate: RUN/fold-0 … RUN/fold-K-1.")
@click.option("--learning-curve", metavar="N,N,…", help="With --cv: trained on so many patients each.")
@click.option("--sites", type=click.Path(path_type=Path), help="CSV `pair,site`: whole sites share a fold.")
@click.option("--resume", is_flag=True, help="Go on with an interrupted run (begins one where there is none).")
@common_options
def command(
    records: Location, run_dir: Path, fold: int | None, cv: int | None, learning_curve: str | None, sites: Path | None,
    resume: bool, common: Common,
) -> None:  # fmt: skip
    """Train a model on a folder of records.

    Patients are never on two sides: fold K tests, fold K + 1 chooses the checkpoint, the rest trains.

    \b
    vstain fit records/ --out run/ --config configs/ki67_finetune.toml
    vstain fit records/ --out run/ --config configs/ki67_finetune.toml --resume
    vstain fit records/ --out cv/ --config configs/ki67_finetune.toml --cv 5
    vstain fit records/ --out curve/ --config configs/ki67_finetune.toml --cv 5 --learning-curve 4,8,16,32
    vstain fit s3://bucket/records --out run/ --config configs/ki67_finetune.toml
    """
    from virtual_stain.dataset.folds import plan_folds, read_sites
    from virtual_stain.errors import ConfigError
    from virtual_stain.records.manifest import read_manifest
    from virtual_stain.records.pending import require_reviewed

    require_reviewed(records)
    if cv is not None and fold is not None:
        raise ConfigError("--cv trains every fold: --fold has no sense beside it.")
    table = None if sites is None else read_sites(sites, read_manifest(records))
    options: dict[str, Any] = {"resume": resume, "force": common.force, "progress": common.progress}
    if learning_curve is not None:
        from virtual_stain.workflows.learning_curve import asked_for
        from virtual_stain.workflows.learning_curve import learning_curve as curve

        sizes = asked_for(learning_curve, cv)
        click.echo("\n".join(curve(records, run_dir, common.config, sizes, n_folds=cv, sites=table, **options)))
        return
    if cv is not None:
        from virtual_stain.training.cross_validation import fit_cross_validated

        results = fit_cross_validated(records, run_dir, common.config, n_folds=cv, sites=table, **options)
    else:
        from virtual_stain.training.fit import fit

        plan = None if table is None else plan_folds(read_manifest(records), sites=table)
        results = [fit(records, run_dir, common.config, fold=fold or 0, plan=plan, **options)]
    for result in results:
        click.echo(
            f"{result.run_dir}: {result.steps} steps in {result.seconds / 60:.1f} min; stopped at {result.reason}.\n"
            f"Best validation loss {result.best_validation_loss:.4f} at step {result.best_step}."
        )
        if result.verdict:
            click.echo(result.verdict)
    click.echo(f"Next: vstain evaluate {run_dir}")
