"""The large constants of a graph, kept apart while TensorFlow traces and saves it, and put into the file afterwards.

TensorFlow copies a constant into every graph that calls the function which holds it: saving InceptionV3's 87 MB with
five signatures needs 5 GB for a moment. With one NaN in place of each block of weights the copies weigh nothing. Such a
graph answers NaN if it is ever run; `put_back` fills the saved file and refuses to leave it with a block missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
from tensorflow.python.saved_model import fingerprinting_utils

from virtual_stain.errors import ModelError
from virtual_stain.exporting.bundle import SAVED_MODEL

_PREFIX = "vstain_weights_"
_SMALLEST_BYTES = 1024  # below this a copy costs less than the bookkeeping

Weights = Mapping[str, Any]
"""Name of the constant in the graph → its TensorProto."""


def take_out(graph: Any) -> tuple[Any, Weights]:
    """(a copy of the GraphDef whose large float32 constants are one NaN each, the constants by their new names)."""
    weights: dict[str, Any] = {}
    renamed: dict[str, str] = {}
    result = tf.compat.v1.GraphDef(versions=graph.versions, library=graph.library)
    for node in graph.node:
        value = node.attr["value"].tensor if node.op == "Const" else None
        if value is None or value.dtype != tf.float32.as_datatype_enum or value.ByteSize() < _SMALLEST_BYTES:
            result.node.add().CopyFrom(node)
            continue
        name = renamed[node.name] = f"{_PREFIX}{len(weights)}"
        weights[name] = value
        stand_in = result.node.add(name=name, op="Const")
        stand_in.attr["dtype"].type = value.dtype
        tensor = stand_in.attr["value"].tensor
        tensor.dtype = value.dtype
        tensor.tensor_shape.CopyFrom(value.tensor_shape)
        tensor.float_val.append(np.nan)  # one value for all elements
    for node in result.node:
        node.input[:] = [_renamed(name, renamed) for name in node.input]
    return result, weights


def _renamed(name: str, renamed: Mapping[str, str]) -> str:
    mark, plain = ("^", name[1:]) if name.startswith("^") else ("", name)
    node, colon, output = plain.partition(":")
    return f"{mark}{renamed.get(node, node)}{colon}{output}"


def put_back(folder: Path, weights: Weights) -> None:
    """Fills the stand-ins of a SavedModel below `folder` with `weights`, each of which has to have its place.

    Raises ModelError when a stand-in has no weights, weights have no stand-in, or shapes differ: the file is
    then unusable and has to be thrown away. Without stand-ins and weights the file stays as it is.
    """
    path = folder / SAVED_MODEL
    model = SavedModel()
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise ModelError(f"{path}: expected a SavedModel that was written just now. Received: {error}") from error
    filled: set[str] = set()
    for node in _stand_ins(model):
        tensor, value = node.attr["value"].tensor, weights.get(node.name)
        if value is None or tensor.tensor_shape != value.tensor_shape or tensor.dtype != value.dtype:
            raise ModelError(f"{path}: expected the weights of {node.name}. Received: {_shape(value)}")
        tensor.CopyFrom(value)
        filled.add(node.name)
    if missing := sorted(set(weights) - filled):
        raise ModelError(f"{path}: expected a place for every block of weights. Received: none for {missing}")
    if filled:
        path.write_bytes(model.SerializeToString(deterministic=True))
        fingerprinting_utils.write_fingerprint(str(folder))  # the first one was of the file without weights


def _stand_ins(model: Any) -> Iterator[Any]:
    for meta in model.meta_graphs:
        for nodes in (meta.graph_def.node, *(f.node_def for f in meta.graph_def.library.function)):
            yield from (node for node in nodes if node.op == "Const" and node.name.startswith(_PREFIX))


def _shape(value: Any | None) -> str:
    return "none" if value is None else f"shape {[d.size for d in value.tensor_shape.dim]}"
