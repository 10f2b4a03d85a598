"""Writes tfrecords/schema.v1.json and the feature table of tfrecords/README.md from records/schema.py.

python tools/write_schema.py
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from virtual_stain.files import write_json, write_text
from virtual_stain.records.schema import FEATURES, SCHEMA_VERSION

HOME = Path(__file__).parents[1] / "tfrecords"
TABLE = re.compile(r"(?<=\|---\|---\|---\|---\|\n)(?:\|.*\n)*")


def schema_json() -> dict[str, Any]:
    """What `tfrecords/schema.v1.json` holds."""
    return {"schema_version": SCHEMA_VERSION, "features": [f.to_dict() for f in FEATURES]}


def main() -> None:
    write_json(HOME / f"schema.v{SCHEMA_VERSION}.json", schema_json())
    rows = []
    for f in FEATURES:
        kind = f.kind + (" list" if f.many else "") + (", *optional*" if f.optional else "")
        rows.append(f"| `{f.key}` | {kind} | {f.unit} | {f.meaning} |\n")
    readme = HOME / "README.md"
    write_text(readme, TABLE.sub(lambda _: "".join(rows), readme.read_text(encoding="utf-8"), count=1))


if __name__ == "__main__":
    main()
