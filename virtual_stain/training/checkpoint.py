"""Checkpoints: one HDF5 file of named arrays and a small state, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from virtual_stain.errors import ModelError
from virtual_stain.hdf5 import open_hdf5, read_array, replacing_hdf5

FORMAT = 1
Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Named:
    """An array and the name under which it must be found again."""

    name: str
    value: Array


def named_values(variables: Sequence[Any]) -> list[Named]:
    """The values of Keras or TensorFlow variables on the host, with their names."""
    return [Named(name_of(v), np.asarray(v.numpy())) for v in variables]


def write_checkpoint(path: Path, groups: Mapping[str, Sequence[Named]], state: Mapping[str, Any]) -> None:
    """Writes `groups` of arrays and the JSON-able `state` atomically. Raises OutputError."""
    with replacing_hdf5(path) as file:
        file.attrs["format"] = FORMAT
        file.attrs["state"] = text = json.dumps(state, allow_nan=False)
        file.attrs["sha256"] = _digest(groups, text)
        for group, arrays in groups.items():
            folder = file.create_group(group)
            folder.attrs["count"] = len(arrays)
            for index, item in enumerate(arrays):
                folder.create_dataset(f"{index:05d}", data=item.value).attrs["name"] = item.name


def read_checkpoint(path: Path) -> tuple[dict[str, list[Named]], dict[str, Any]]:
    """The inverse of `write_checkpoint`. Raises ModelError when the file is missing or is something else."""
    try:
        with open_hdf5(path) as file:
            if file.attrs.get("format") != FORMAT:
                raise ModelError(f"{path}: expected a checkpoint of format {FORMAT}. Received: {dict(file.attrs)}")
            groups = {
                name: [
                    Named(str(folder[f"{i:05d}"].attrs["name"]), read_array(folder[f"{i:05d}"]))
                    for i in range(int(folder.attrs["count"]))
                ]
                for name, folder in file.items()
            }
            text = str(file.attrs["state"])
            if file.attrs.get("sha256", "") not in ("", _digest(groups, text)):  # older ones have none
                raise ModelError(
                    f"{path}: expected the arrays that were written. Received: others; the file is damaged.",
                    hint="Copy the run again, or train it again: vstain fit … --force",
                )
            return groups, json.loads(text)
    except (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError, MemoryError) as error:
        raise ModelError(f"{path}: the checkpoint cannot be read: {error}") from error


def _digest(groups: Mapping[str, Sequence[Named]], state: str) -> str:
    """Of all values: a weight whose bits have rotted is a number like another, and HDF5 does not look."""
    found = hashlib.sha256(state.encode())
    for group in sorted(groups):
        for item in groups[group]:
            value = np.ascontiguousarray(item.value)
            found.update(f"\0{group}\0{item.name}\0{value.dtype.str}\0{value.shape}\0".encode())
            found.update(value.tobytes())
    return found.hexdigest()


def assign(variables: Sequence[Any], values: Sequence[Named], path: Path) -> None:
    """Sets `variables` (Keras or TensorFlow) from a checkpoint's arrays; names and shapes must agree in order.

    Raises ModelError before anything is set.
    """
    if len(variables) != len(values):
        raise ModelError(
            f"{path}: the checkpoint is of another network. Expected {len(variables)} arrays. Received: {len(values)}"
        )
    for variable, item in zip(variables, values, strict=True):
        if tuple(variable.shape) != item.value.shape or _stable(name_of(variable)) != _stable(item.name):
            raise ModelError(
                f"{path}: the checkpoint is of another network. Expected {name_of(variable)} {tuple(variable.shape)}. "
                f"Received: {item.name} {item.value.shape}"
            )
    for variable, item in zip(variables, values, strict=True):
        variable.assign(item.value)


def name_of(variable: Any) -> str:
    """The path of a Keras variable, the name of a TensorFlow one."""
    return str(getattr(variable, "path", None) or variable.name)


def _stable(name: str) -> str:
    # Keras numbers layers per process (conv2d_94), so the numbers say nothing about the network
    return re.sub(r"_?\d+", "", name)
