"""Register all pairs of a table, or one share of them, and list them worst first.

    python tools/register_pairs.py PAIRS.csv --out registered --jobs 4
    python tools/register_pairs.py PAIRS.csv --out registered --share 0/8      (a cluster array: 0/8 … 7/8)

Each pair gets the folder `registered/<pair>` that `vstain register` would write. One bad pair never stops the others;
the table is printed (and written to `registered/summary-0-of-8.csv`), and the exit code is 6 when a pair is rejected or
failed. Seconds per pair.
"""

from __future__ import annotations

import csv
import io
import sys
from dataclasses import dataclass
from pathlib import Path

import click

from virtual_stain.cli.common import Common, common_options
from virtual_stain.errors import BatchError, VirtualStainError
from virtual_stain.files import write_text
from virtual_stain.parallel import local_executor, map_in_order
from virtual_stain.registration.job import RegistrationJob, register_files

COLUMNS = ("pair", "verdict", "error_median_um", "error_p95_um", "consensus", "overlap", "flags", "reason")


@dataclass(frozen=True)
class Row:
    """One pair's line in the table."""

    values: tuple[str, ...]
    usable: bool
    worst_first: float


def register_one(job: RegistrationJob) -> Row:
    """Registers in a worker; an error of this pair becomes its row."""
    try:
        r = register_files(job)
    except VirtualStainError as error:
        return Row((job.out.name, "failed", "", "", "", "", "", error.message), False, -float("inf"))
    verdict = "none" if r.verdict is None else r.verdict.value
    median, p95 = ("" if v is None else f"{v:.2f}" for v in (r.error_median_um, r.error_p95_um))
    values = (job.out.name, verdict, median, p95, f"{r.consensus_fraction:.2f}", f"{r.overlap_fraction:.2f}")
    order = float("inf") if r.error_median_um is None else r.error_median_um
    return Row((*values, " ".join(r.flags), r.reason()), r.usable, -order)


@click.command()
@click.argument("pairs", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--share", default="0/1", help="Which share of the table, as N/M.")
@common_options
def main(pairs: Path, out: Path, share: str, common: Common) -> None:
    """Register a share of PAIRS.csv."""
    from virtual_stain.pairs import read_pairs

    number, _, of = share.partition("/")
    if not (number.isdigit() and of.isdigit() and int(number) < int(of)):
        raise click.BadParameter(f"--share: expected N/M with N < M, as 0/8. Received: {share!r}")
    mine = read_pairs(pairs, n_folds=common.config.labels.n_folds)[int(number) :: int(of)]
    jobs = [RegistrationJob(p.he, p.ihc, out / p.pair, common.config, common.force) for p in mine]
    with local_executor(common.jobs) as executor:
        done = map_in_order(executor, register_one, jobs)
        rows = sorted(common.progress.track(done, len(jobs), "register", "pair"), key=lambda r: r.worst_first)
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(row.values for row in rows)
    write_text(out / f"summary-{number}-of-{of}.csv", stream.getvalue())
    click.echo(stream.getvalue(), nl=False)
    bad = [row.values[0] for row in rows if not row.usable]
    if bad:
        raise BatchError(f"{len(bad)} of {len(rows)} pairs cannot be used: {', '.join(bad)}")


if __name__ == "__main__":
    try:
        main(standalone_mode=False)
    except VirtualStainError as error:
        click.echo(f"register_pairs: {error}", err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
