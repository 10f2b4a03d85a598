"""Answers of a slide that is being scored, on disk: an interrupted run goes on where it was.

One small file beside the results, replaced as a whole every half minute; removed when the report is written. It belongs
to one slide, model and setting (`key`); a file of any other is ignored.
"""

from __future__ import annotations

import contextlib
import io
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from virtual_stain.appearance import Appearance
from virtual_stain.errors import OutputError
from virtual_stain.files import write_bytes

Floats = npt.NDArray[np.float64]
EVERY_S = 30.0
_LOOK = tuple(f.name for f in fields(Appearance))


class AnswerLog:
    """Reads what an earlier run left, and writes what this one has."""

    def __init__(self, path: Path | None, key: str, every_s: float = EVERY_S) -> None:
        self._path, self._key, self._every_s = path, key, every_s
        self._written = time.monotonic()
        self.known: set[int] = set()
        """Indices of the tiles that are answered."""

    def bind(self, engine: Mapping[str, Any]) -> None:
        """Answers of another engine or precision are not gone on with: a slide is read by one."""
        parts = [str(engine.get(name, "")) for name in ("name", "precision", "device", "transport")]
        self._key = " ".join([self._key, *parts])

    @staticmethod
    def of_nothing() -> AnswerLog:
        """Keeps nothing."""
        return AnswerLog(None, "")

    def start(self, names: Sequence[str], n_tiles: int) -> tuple[dict[str, Floats], dict[int, Appearance]]:
        """Arrays float64[n_tiles] with the answers there are and NaN elsewhere, and the looks of these tiles."""
        answers = {name: np.full(n_tiles, np.nan) for name in names}
        if self._path is None or not self._path.is_file():
            return answers, {}
        with contextlib.suppress(OSError, ValueError, KeyError, zipfile.BadZipFile):
            with np.load(io.BytesIO(self._path.read_bytes()), allow_pickle=False) as stored:
                if str(stored["key"]) != self._key or int(stored["n_tiles"]) != n_tiles:
                    return answers, {}
                indices = stored["indices"]
                values = {name: stored[f"answer_{name}"] for name in names}
                rows = stored["looks"]
            for name in names:
                answers[name][indices] = values[name]
            looks = {
                int(i): Appearance(**dict(zip(_LOOK, row.tolist(), strict=True)))
                for i, row in zip(indices, rows, strict=True)
                if np.isfinite(row[0])
            }
            self.known = {int(i) for i in indices}
            return answers, looks
        return {name: np.full(n_tiles, np.nan) for name in names}, {}

    def add(self, indices: Sequence[int], answers: Mapping[str, Floats], looks: Mapping[int, Appearance]) -> None:
        """Notes that `indices` are answered; writes at most every `every_s` seconds."""
        self.known |= set(indices)
        if self._path is not None and time.monotonic() - self._written >= self._every_s:
            self.write(answers, looks)

    def write(self, answers: Mapping[str, Floats], looks: Mapping[int, Appearance]) -> None:
        """Replaces the file. Raises OutputError."""
        if self._path is None:
            return
        indices = np.array(sorted(self.known), np.int64)
        missing = (float("nan"),) * len(_LOOK)
        rows = np.array([astuple(looks[i]) if i in looks else missing for i in indices.tolist()], np.float64)
        stream = io.BytesIO()
        np.savez(
            stream,
            key=np.array(self._key),
            n_tiles=np.array(len(next(iter(answers.values())))),
            indices=indices,
            looks=rows.reshape(-1, len(_LOOK)),
            **{f"answer_{name}": values[indices] for name, values in answers.items()},
        )
        write_bytes(self._path, stream.getvalue())
        self._written = time.monotonic()

    @contextlib.contextmanager
    def kept_on_error(self, answers: Mapping[str, Floats], looks: Mapping[int, Appearance]) -> Iterator[None]:
        """Writes what there is when the block ends in an error or in Ctrl-C."""
        try:
            yield
        except BaseException:
            if self.known:
                with contextlib.suppress(OutputError):  # the first error is the one to tell
                    self.write(answers, looks)
            raise

    def remove(self) -> None:
        """The report has taken its place."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
