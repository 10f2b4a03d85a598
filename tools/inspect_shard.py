"""List the records of TFRecord shards, with or without a manifest beside them; every CRC is checked.

python tools/inspect_shard.py records/case-01-00000-of-00002.tfrecord …
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from virtual_stain.errors import VerificationError


@click.command()
@click.argument("shards", nargs=-1, required=True, type=click.Path(path_type=Path))
def main(shards: tuple[Path, ...]) -> None:
    """One line a record: number, tile, cells, ratio, weight, flags; problems with the schema below it."""
    from virtual_stain.records.read import iterate_shard
    from virtual_stain.records.schema import problems_of

    sound = True
    for path in shards:
        click.echo(f"{path} ({path.stat().st_size / 1e6:.1f} MB)" if path.is_file() else f"{path}: no such file")
        try:
            for number, record in enumerate(iterate_shard(path)):
                problems = problems_of(record)
                cells = record.get("label/positive", 0) + record.get("label/negative", 0)
                ratio = f"{record['label/positive'] / cells:6.1%}" if cells else "     –"
                flags = " ".join(record.get("tile/flags", []))
                weight = record.get("label/weight", "?")
                click.echo(f"{number:6} {record.get('image/filename', '?'):24} {cells:5} {ratio} {weight:g} {flags}")
                for problem in problems:
                    click.echo(f"       ! {problem}")
                sound = sound and not problems
        except VerificationError as error:
            click.echo(str(error), err=True)
            sound = False
    sys.exit(0 if sound else 3)


if __name__ == "__main__":
    main()
