"""Writes tfrecords/sample: two tiny synthetic shards and their manifest, golden data for tests and other readers.

python tools/write_record_sample.py        (seconds; only when the schema changes)
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # the tests' fixtures are not installed

from tests.fixtures.records import TinyRecords, tiny_records  # noqa: E402

SETTINGS = TinyRecords(
    patients=2,
    tiles_per_pair=3,
    tile_px=64,
    window_um=19.2,
    cells_per_tile=24,
    n_folds=2,
    few_cells_every=3,
    min_tumour_cells=12,
)


def main() -> None:
    sample = ROOT / "tfrecords" / "sample"
    shutil.rmtree(sample, ignore_errors=True)
    tiny_records(sample, SETTINGS)
    for path in sorted(sample.iterdir()):
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
