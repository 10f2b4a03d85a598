"""Checkpoints: one HDF5 file of named arrays and a small state, written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import numpy.typing as npt

from virtual_stain.errors import ModelError, OutputError
from virtual_stain.files import replacing

FORMAT = 1
Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Named:
    """An array and the name under which it must be found again."""

    name: str
    value: Array


def named_values(variables: Sequence[keras.Variable]) -> list[Named]:
    """The variables' values on the host; names are their paths."""
    return [Named(v.path, np.asarray(v.numpy())) for v in variables]


def write_checkpoint(path: Path, groups: Mapping[str, Sequence[Named]], state: Mapping[str, Any]) -> None:
    """Writes `groups` of arrays and the JSON-able `state` atomically. Raises OutputError."""
    with replacing(path) as temporary:
        try:
            with h5py.File(temporary, "w") as file:
                file.attrs["format"] = FORMAT
                file.attrs["state"] = json.dumps(state, allow_nan=False)
                for group, arrays in groups.items():
                    folder = file.create_group(group)
                    folder.attrs["count"] = len(arrays)
                    for index, item in enumerate(arrays):
                        folder.create_dataset(f"{index:05d}", data=item.value).attrs["name"] = item.name
        except OSError as error:
            if error.errno is None:  # h5py reports a full disk without the number
                raise OutputError(f"{path}: cannot be written: {error}") from error
            raise


def read_checkpoint(path: Path) -> tuple[dict[str, list[Named]], dict[str, Any]]:
    """The inverse of `write_checkpoint`. Raises ModelError when the file is missing or is something else."""
    try:
        with h5py.File(path, "r") as file:
            if file.attrs.get("format") != FORMAT:
                raise ModelError(f"{path}: expected a checkpoint of format {FORMAT}. Received: {dict(file.attrs)}")
            groups = {
                name: [
                    Named(str(folder[f"{i:05d}"].attrs["name"]), folder[f"{i:05d}"][()])
                    for i in range(int(folder.attrs["count"]))
                ]
                for name, folder in file.items()
            }
            return groups, json.loads(file.attrs["state"])
    except (OSError, KeyError, ValueError) as error:
        raise ModelError(f"{path}: the checkpoint cannot be read: {error}") from error


def assign(variables: Sequence[keras.Variable], values: Sequence[Named], path: Path) -> None:
    """Sets `variables` from a checkpoint's arrays; every name-less position and shape must agree. Raises ModelError."""
    if len(variables) != len(values):
        raise ModelError(
            f"{path}: the checkpoint is of another network. Expected {len(variables)} arrays. Received: {len(values)}"
        )
    for variable, item in zip(variables, values, strict=True):
        # Keras numbers repeated layer names per process (conv2d_94), so only the last part of a path is stable
        same_name = variable.path.rsplit("/", 1)[-1] == item.name.rsplit("/", 1)[-1]
        if tuple(variable.shape) != item.value.shape or not same_name:
            raise ModelError(
                f"{path}: the checkpoint is of another network. Expected {variable.path} {tuple(variable.shape)}. "
                f"Received: {item.name} {item.value.shape}"
            )
    for variable, item in zip(variables, values, strict=True):
        variable.assign(item.value)
