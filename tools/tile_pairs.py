"""Build the tiles of some pairs only: for cluster arrays, one task a share of the table.

    python tools/tile_pairs.py PAIRS.csv --out records --share 0/8      (tasks 0/8 … 7/8, on any machines)
    vstain build-records PAIRS.csv --out records --verdicts verdicts.csv

Each task prepares, tiles and joins its pairs in `records/work/<pair>/`; `build-records` then finds them done and only
reviews and packs. The tasks need the same paths, configuration and patient key.
"""

from __future__ import annotations

from pathlib import Path

import click

from virtual_stain.cli.common import Common, common_options


def parse_share(text: str) -> tuple[int, int]:
    """`2/8` → (2, 8)."""
    number, _, of = text.partition("/")
    if not (number.isdigit() and of.isdigit() and int(number) < int(of)):
        raise click.BadParameter(f"expected N/M with N < M, as 0/8. Received: {text!r}")
    return int(number), int(of)


@click.command()
@click.argument("pairs", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The folder of build-records.")
@click.option("--share", default="0/1", help="Which share of the table, as N/M.")
@common_options
def main(pairs: Path, out: Path, share: str, common: Common) -> None:
    """Build the tiles of a share of PAIRS.csv."""
    from virtual_stain.pairs import read_pairs
    from virtual_stain.patients import load_patient_key
    from virtual_stain.workflows.output_folder import claim, identities
    from virtual_stain.workflows.pair_job import make_job, prepare_pair
    from virtual_stain.workflows.part_job import build_part, cut, is_built, join_pair
    from virtual_stain.workflows.scheduling import Failure, completed, open_workers

    number, of = parse_share(share)
    table = read_pairs(pairs, n_folds=common.config.labels.n_folds)
    claim(out, common.config, identities(table, load_patient_key()), force=False)
    mine = table[number::of]
    failed = 0
    with open_workers(common.jobs) as workers:
        jobs = [make_job(pair, out, common.config) for pair in mine]
        for job, prepared in completed(workers, prepare_pair, jobs):
            if isinstance(prepared, Failure):
                click.echo(f"{job.pair}: {prepared.error}", err=True)
                failed += 1
                continue
            if prepared.usable and not is_built(prepared):
                parts = list(completed(workers, build_part, cut(prepared)))
                bad = [result for _, result in parts if isinstance(result, Failure)]
                if bad:
                    click.echo(f"{job.pair}: {bad[0].error}", err=True)
                    failed += 1
                    continue
                join_pair(prepared)
            click.echo(f"{job.pair}: {prepared.verdict}, {len(prepared.tiles)} tiles")
    raise SystemExit(6 if failed else 0)


if __name__ == "__main__":
    main()
