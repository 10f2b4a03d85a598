"""What a run did: `run.json` in every folder that a run writes, and one Outcome per slide or pair."""

from __future__ import annotations

import contextlib
import dataclasses
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from virtual_stain.errors import InputError, OutputError
from virtual_stain.files import read_json, write_json
from virtual_stain.version import __version__

_RECORDED = ("numpy", "opencv-python", "openslide-python", "openslide-bin", "h5py", "scipy", "scikit-image")
_RECORDED_TF = ("tensorflow", "keras", "tensorflow-io")


def software_versions(*, tensorflow: bool = False) -> dict[str, str]:
    """Versions of what the numbers depend on; read from metadata, so nothing heavy is imported."""
    versions = {"virtual-stain": __version__, "python": platform.python_version()}
    for name in _RECORDED + (_RECORDED_TF if tensorflow else ()):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def refuse_foreign_run(folder: Path, command: str) -> None:
    """Raises OutputError when `folder` holds the run.json of another command: it would be lost."""
    path = folder / "run.json"
    if not path.exists():
        return
    try:
        found = read_json(path, "the record of a run")["command"]
    except (InputError, KeyError, TypeError):
        found = "something unreadable"
    if found != command:
        raise OutputError(
            f"{folder}: expected a new folder, or one of `vstain {command}`. Received: one of `vstain {found}`.",
            hint="Choose another folder with --out.",
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one slide or pair: never silent, in the user's words."""

    name: str
    ok: bool
    reason: str = ""


@dataclass(slots=True)
class RunRecord:
    """Collects what `run.json` says; times and paths live here and nowhere in manifests or shards."""

    command: str
    config: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    """File → sha256 or another content hash."""
    counts: dict[str, int] = field(default_factory=dict)
    durations_s: dict[str, float] = field(default_factory=dict)
    outcomes: list[Outcome] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)
    started_unix_s: float = field(default_factory=time.time)

    def write(self, folder: Path, *, tensorflow: bool = False) -> None:
        """Writes `folder`/run.json atomically. Raises OutputError."""
        write_json(folder / "run.json", self.to_json(tensorflow=tensorflow))

    def to_json(self, *, tensorflow: bool = False) -> dict[str, Any]:
        """What run.json says, so far."""
        return {
            "command": self.command,
            "software": software_versions(tensorflow=tensorflow),
            "started_unix_s": round(self.started_unix_s, 3),
            "seconds": round(time.time() - self.started_unix_s, 3),
            "config": self.config,
            "inputs": self.inputs,
            "counts": self.counts,
            "durations_s": {k: round(v, 3) for k, v in self.durations_s.items()},
            "outcomes": [dataclasses.asdict(o) for o in self.outcomes],
            **self.extra,
        }


@contextlib.contextmanager
def kept_if_interrupted(record: RunRecord, folder: Path, *, tensorflow: bool = False) -> Iterator[None]:
    """Writes run.json, with `status` "interrupted", where Ctrl-C or SIGTERM ends the block.

    A run.json of another command stays.
    """
    try:
        yield
    except KeyboardInterrupt:
        with contextlib.suppress(OutputError):
            refuse_foreign_run(folder, record.command)
            record.extra["status"] = "interrupted"
            record.write(folder, tensorflow=tensorflow)
        raise
