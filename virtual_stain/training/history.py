"""history.csv and TensorBoard: what a run did, one line every few steps and one a validation."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import tensorflow as tf

from virtual_stain.files import output_errors, write_text
from virtual_stain.training.run_dir import RunDir
from virtual_stain.training.validate import Validation

COLUMNS = (
    "step", "epoch", "seconds", "learning_rate", "loss", "cells_loss", "gradient_norm", "tiles_per_s",
    "validation_loss", "validation_cells_loss", "validation_tile_r", "validation_tile_mae",
)  # fmt: skip
"""step: optimizer steps done; seconds: of training so far; loss: mean since the last line, comparable with
validation_loss; cells_loss: the other part of what is minimised, with its factor; gradient_norm: before clipping, mean;
tiles_per_s: crops trained a second since the last line; empty: not measured."""


class History:
    """Appends lines; a line is written in one piece, so a kill leaves whole lines (a torn last one is dropped)."""

    def __init__(self, paths: RunDir | None, resumed_step: int) -> None:
        """`paths`: None = keep nothing (a process that another one writes for)."""
        self._path = None if paths is None else paths.history
        if paths is None:
            return
        kept = _lines_up_to(paths.history, resumed_step)
        write_text(paths.history, ",".join(COLUMNS) + "\n" + "".join(kept))
        with output_errors(paths.path):
            self._stream = paths.history.open("a", encoding="utf-8", newline="")
            self._board = tf.summary.create_file_writer(str(paths.tensorboard))

    def __enter__(self) -> History:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._path is not None:
            self._stream.close()
            self._board.close()

    def training(self, step: int, epoch: float, seconds: float, values: Mapping[str, float]) -> None:
        """A line of training; `values`: column → number."""
        self._write(step, epoch, seconds, values)

    def examples(self, step: int, crops: tf.Tensor) -> None:
        """Crops as the network sees them, uint8[N, C, C, 3], for TensorBoard alone."""
        if self._path is not None:
            with self._board.as_default():
                tf.summary.image("crops", crops, step=step, max_outputs=int(crops.shape[0]))

    def validation(self, step: int, epoch: float, seconds: float, found: Validation) -> None:
        """A line of a validation."""
        values = {f"validation_{k}": v for k, v in found.to_dict().items() if f"validation_{k}" in COLUMNS}
        self._write(step, epoch, seconds, values)

    def _write(self, step: int, epoch: float, seconds: float, values: Mapping[str, float | int | None]) -> None:
        if self._path is None:
            return
        row = {"step": step, "epoch": f"{epoch:.4f}", "seconds": f"{seconds:.1f}"}
        known = {k: v for k, v in values.items() if v is not None and math.isfinite(v)}
        text = io.StringIO()
        csv.DictWriter(text, COLUMNS, lineterminator="\n").writerow(row | {k: f"{v:.6g}" for k, v in known.items()})
        with output_errors(self._path):
            self._stream.write(text.getvalue())
            self._stream.flush()
        with self._board.as_default():
            for name, value in known.items():
                tf.summary.scalar(name, value, step=step)
        self._board.flush()


def _lines_up_to(path: Path, step: int) -> list[str]:
    """The whole lines of an earlier part of the run, without what came after the state that is gone on from."""
    if step == 0 or not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)[1:]
    whole = [line for line in lines if line.endswith("\n") and line.count(",") == len(COLUMNS) - 1]
    return [line for line in whole if line.split(",")[0].isdigit() and int(line.split(",")[0]) <= step]
