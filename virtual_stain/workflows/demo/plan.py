"""What the demo makes: how many patients, which are held out, which configuration trains."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

from virtual_stain.config import Config, load_config
from virtual_stain.config.phantom import PhantomSettings
from virtual_stain.files import write_text

HELD_OUT_FOLD, VALIDATION_FOLD = 0, 1
_TRAINING_FOLDS = (2, 3, 4)


@dataclass(frozen=True, slots=True)
class DemoPlan:
    """A cohort of phantoms and the configuration that is trained on it."""

    name: str
    """"default", "indirect", "full" or "small"."""
    phantom: PhantomSettings
    held_out: int
    """Patients that no step of the training sees."""
    validation: int
    """Patients that choose the checkpoint."""
    config_file: str
    """Packaged TOML; configs/ links to it."""
    indirect: bool = False
    """Also the indirect path: a generator and virtual slides."""

    def load_config(self) -> Config:
        with resources.as_file(resources.files("virtual_stain.workflows.demo") / self.config_file) as path:
            config = load_config(path)
        return replace(config, labels=replace(config.labels, keep_ihc=self.indirect))

    def fold(self, index: int) -> int:
        """Fold of the patient `index`: the first are held out, the next validate, the rest train."""
        if index < self.held_out:
            return HELD_OUT_FOLD
        if index < self.held_out + self.validation:
            return VALIDATION_FOLD
        return _TRAINING_FOLDS[index % len(_TRAINING_FOLDS)]


DEFAULT = DemoPlan("default", PhantomSettings(pairs=10, seed=11), 2, 1, "demo.toml")
SMALL = DemoPlan("small", PhantomSettings(pairs=4, size_mm=1.0, seed=11), 1, 1, "demo_small.toml")
"""Shows that an installation works, in about two minutes. Its model has learned nothing."""
FULL = DemoPlan("full", PhantomSettings(pairs=16, seed=11), 4, 2, "demo_full.toml", indirect=True)
INDIRECT = replace(DEFAULT, name="indirect", indirect=True)
"""A plan of its own: its records hold more, so no other demo's folder is taken up."""


def write_folds(pairs_csv: Path, plan: DemoPlan) -> Path:
    """The phantoms' pairs.csv with a `fold` column, beside it: the same split whatever the user's patient key is."""
    with pairs_csv.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    text = io.StringIO()
    writer = csv.DictWriter(text, [*rows[0], "fold"], lineterminator="\n")
    writer.writeheader()
    for index, row in enumerate(rows):
        writer.writerow({**row, "fold": plan.fold(index)})
    path = pairs_csv.with_name("pairs-with-folds.csv")
    write_text(path, text.getvalue())
    return path


def pair_names(pairs_csv: Path) -> tuple[str, ...]:
    """Names of the pairs, in the order of the file."""
    with pairs_csv.open(newline="", encoding="utf-8") as stream:
        return tuple(row["pair"] for row in csv.DictReader(stream))
