"""Makes the phantoms that `bench_registration.py` measures on: 42 pairs with every artefact, once.

    python tools/bench/hard_phantoms.py FOLDER [--jobs 2]
    python tools/bench/hard_phantoms.py OTHER_FOLDER --hard [--jobs 2]

24 serial and 16 re-stained pairs of 3–3.4 mm, any turn, half of them mirrored, elastic up to 60 µm, pixel sizes whose
ratio goes from 0.44 to 2.25, and two serial pairs of 8 mm. Control tissue, fold, pen, blur, bubble and missing tissue
on each. About 20 minutes of one core, 2 GB. Finished pairs are kept when it runs again.

These are hard to register; their cells and scanner are the easy ones, and elastic of 60 µm bends them over 800 µm.
--hard makes 12 others in the phantoms' hard mode (crowded nuclei, a blurred and noisy scanner with a colour cast),
elastic of 60 µm over the default 500 µm: 8 serial and 4 re-stained pairs of 3 mm.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from virtual_stain.config.phantom import ARTEFACTS, PhantomSettings
from virtual_stain.phantom.cohort import write_cohort
from virtual_stain.progress import Console

HARD: dict[str, dict[str, object]] = {
    "serial-a": {"pairs": 4, "seed": 301, "size_mm": 3.0, "elastic_um": 40, "stretch_fraction": 0.05},
    "restain-a": {
        "pairs": 4, "seed": 401, "size_mm": 3.0, "elastic_um": 30, "stretch_fraction": 0.05, "mode": "restain",
    },
    "serial-b": {
        "pairs": 8, "seed": 501, "size_mm": 3.0, "he_mpp": 0.9, "ihc_mpp": 0.4, "elastic_um": 60,
        "elastic_scale_um": 800, "stretch_fraction": 0.05,
    },
    "restain-b": {
        "pairs": 8, "seed": 601, "size_mm": 3.0, "he_mpp": 0.4, "ihc_mpp": 0.9, "elastic_um": 40,
        "elastic_scale_um": 800, "mode": "restain",
    },
    "large": {
        "pairs": 2, "seed": 901, "size_mm": 8.0, "he_mpp": 1.0, "ihc_mpp": 0.9, "elastic_um": 60,
        "elastic_scale_um": 800,
    },
    "serial-c": {"pairs": 12, "seed": 701, "size_mm": 3.4, "he_mpp": 0.6, "ihc_mpp": 0.6, "elastic_um": 40},
    "restain-c": {"pairs": 4, "seed": 801, "size_mm": 3.4, "mode": "restain"},
}  # fmt: skip
"""Folder → phantom settings; the rest is the default."""

HARD_MODE: dict[str, dict[str, object]] = {
    "serial_hard-a": {"pairs": 8, "seed": 1001, "size_mm": 3.0, "elastic_um": 60, "hard": True},
    "restain_hard-a": {"pairs": 4, "seed": 1101, "size_mm": 3.0, "elastic_um": 60, "hard": True, "mode": "restain"},
}
"""The same of --hard."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--hard", action="store_true", help="the 12 pairs of the phantoms' hard mode instead")
    options = parser.parse_args()
    for name, wanted in (HARD_MODE if options.hard else HARD).items():
        settings = PhantomSettings(artefacts=ARTEFACTS, **wanted)  # type: ignore[arg-type]
        print(write_cohort(options.folder / name, settings, jobs=options.jobs, force=False, progress=Console()))


if __name__ == "__main__":
    main()
