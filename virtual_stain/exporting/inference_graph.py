"""The network as it is needed for reading slides only: weights are constants, batch normalization is merged.

What training needs and inference does not (variables, moving statistics, reshapes of them) is folded away once, when
the model is exported: the bundle loads faster, TF Serving runs the same lean graph, and no process has to do it again.
Batch normalization y = (x − mean) · γ / √(var + ε) + β after a convolution is one multiplication of its kernel and one
bias (Jacob et al., CVPR 2018, section 3.2); it is done in float64 and changes readings by rounding only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from virtual_stain.exporting.average_pools import average_after_mixing, node_of, users_of
from virtual_stain.exporting.weights_apart import Weights, take_out

NETWORK = "vstain_network"
"""Part of the name of the one function in a bundle that holds the network: uint8[N, C, C, 3] → values per crop."""

GENERATOR = "vstain_generator"
"""The same of the function with the generator's maps, in a bundle of the indirect path."""

CropReading = Callable[[tf.Tensor], Mapping[str, tf.Tensor]]
"""crops uint8[N, C, C, 3] → {name: float32[N]}, in graph operations."""


class FrozenNetwork:
    """A network of constants; looks like a Keras model to `model.tile_reading`.

    `weights`: the constants that the graph holds a NaN for, empty where it holds all itself.
    """

    def __init__(self, function: Any, crop_px: int, weights: Weights) -> None:
        self._function = function
        self.weights = weights
        self.input_shape = (None, crop_px, crop_px, 3)

    def __call__(self, crops: tf.Tensor, training: bool = False) -> Mapping[str, tf.Tensor]:
        if training:
            raise ValueError("A frozen network cannot be trained.")
        outputs: Mapping[str, tf.Tensor] = self._function(crops)
        return outputs


def freeze_network(network: CropReading, crop_px: int, *, weights_apart: bool = False) -> FrozenNetwork:
    """The same function with every variable a constant and batch normalization merged into the convolutions.

    `weights_apart`: for a graph that is saved and not run here, see `weights_apart.py`.
    """
    spec = tf.TensorSpec([None, crop_px, crop_px, 3], tf.uint8)
    function, weights = _frozen(network, spec, NETWORK, weights_apart=weights_apart)
    return FrozenNetwork(function, crop_px, weights)


def freeze_maps(generator: CropReading) -> CropReading:
    """windows uint8[N, h, w, 3] of any size → maps by name, as the same kind of graph; it holds all its weights."""
    return _frozen(generator, tf.TensorSpec([None, None, None, 3], tf.uint8), GENERATOR, weights_apart=False)[0]


def _frozen(network: CropReading, spec: tf.TensorSpec, name: str, *, weights_apart: bool) -> tuple[Any, Weights]:
    traced = tf.function(network, input_signature=[spec], autograph=False).get_concrete_function()
    frozen = convert_variables_to_constants_v2(traced)
    names = sorted(traced.structured_outputs)  # tf.nest orders a dict's values by key
    outputs = dict(zip(names, (t.name for t in frozen.outputs), strict=True))
    input_name = frozen.inputs[0].name
    graph = frozen.graph.as_graph_def()
    del traced, frozen  # each holds the weights once more
    graph = merge_batch_norm(graph, list(outputs.values()))
    graph = average_after_mixing(graph, list(outputs.values()))
    graph, weights = take_out(graph) if weights_apart else (graph, MappingProxyType({}))
    pruned = _as_function(graph, input_name, list(outputs.values()))

    def answer(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        return dict(zip(outputs, pruned(pixels), strict=True))

    answer.__name__ = name  # by which it is found in the bundle
    return tf.function(answer, input_signature=[spec], autograph=False), weights


def _as_function(graph: Any, input_name: str, output_names: list[str]) -> Any:
    wrapped = tf.compat.v1.wrap_function(lambda: tf.graph_util.import_graph_def(graph, name=""), [])
    element = wrapped.graph.as_graph_element
    return wrapped.prune(element(input_name), [element(name) for name in output_names])


def merge_batch_norm(graph: Any, outputs: list[str]) -> Any:
    """A GraphDef with every Conv2D → Mul by constants → AddV2 of constants made into Conv2D → BiasAdd.

    Everything that depends on no input is computed once; `outputs` are tensor names. Other nodes stay as they are.
    """
    users = users_of(graph)
    fixed = _constant_nodes(graph)
    found = [p for p in (_pattern(n, users, fixed) for n in graph.node if n.op == "Conv2D") if p is not None]
    values = _evaluate(graph, {name for conv, factor, _, bias in found for name in (conv.input[1], factor, bias)})
    result = tf.compat.v1.GraphDef()
    result.CopyFrom(graph)
    copies = {n.name: n for n in result.node}
    for conv, factor, add, bias in found:
        channels = values[conv.input[1]].shape[-1]
        scale = _per_channel(values[factor], channels)
        kernel = (values[conv.input[1]].astype(np.float64) * scale).astype(np.float32)
        shift = _per_channel(values[bias], channels).astype(np.float32)
        result.node.append(_constant(f"{conv.name}/merged_kernel", kernel))
        result.node.append(_constant(f"{conv.name}/merged_bias", shift))
        copies[conv.name].input[1] = f"{conv.name}/merged_kernel"
        merged = copies[add.name]
        merged.op = "BiasAdd"
        merged.input[:] = [conv.name, f"{conv.name}/merged_bias"]
        merged.attr["data_format"].s = b"NHWC"
    return _needed(result, outputs)


def _needed(graph: Any, outputs: list[str]) -> Any:
    """The part of the graph that `outputs` are computed from. Orders between nodes (inputs ^name) go: nothing here has
    an effect, and they would keep what was merged."""
    nodes = {n.name: n for n in graph.node}
    wanted: set[str] = set()
    stack = [node_of(o) for o in outputs]
    while stack:
        name = stack.pop()
        if name not in wanted:
            wanted.add(name)
            stack += [node_of(i) for i in nodes[name].input if not i.startswith("^")]
    result = tf.compat.v1.GraphDef(versions=graph.versions)
    for node in graph.node:
        if node.name in wanted:
            copy = result.node.add()
            copy.CopyFrom(node)
            copy.input[:] = [i for i in node.input if not i.startswith("^")]
    return result


def _pattern(conv: Any, users: Mapping[str, list[Any]], fixed: set[str]) -> tuple[Any, str, Any, str] | None:
    """(convolution, factor of the Mul, AddV2, its summand) where batch normalization follows and nothing else."""
    if node_of(conv.input[1]) not in fixed or conv.attr["data_format"].s not in (b"", b"NHWC"):
        return None
    multiply = _only_user(conv, users, "Mul")
    factor = None if multiply is None else _constant_side(multiply, conv.name, fixed)
    add = None if multiply is None else _only_user(multiply, users, "AddV2")
    if multiply is None or factor is None or add is None:
        return None
    bias = _constant_side(add, multiply.name, fixed)
    return None if bias is None else (conv, factor, add, bias)


def _only_user(node: Any, users: Mapping[str, list[Any]], op: str) -> Any | None:
    found = users.get(node.name, [])
    return found[0] if len(found) == 1 and found[0].op == op else None


def _constant_side(node: Any, other: str, fixed: set[str]) -> str | None:
    """The input of a two-sided operation that is not `other`, if it depends on no input of the graph."""
    sides = [str(name) for name in node.input if not name.startswith("^")]
    rest = [name for name in sides if node_of(name) != other]
    return rest[0] if len(sides) == 2 and len(rest) == 1 and node_of(rest[0]) in fixed else None


def _constant_nodes(graph: Any) -> set[str]:
    """Names of the nodes that depend on no placeholder. The nodes of a frozen graph have no effects."""
    nodes = {n.name: n for n in graph.node}
    known: dict[str, bool] = {}
    for root in nodes:
        stack = [root]
        while stack:
            name = stack[-1]
            if name in known:
                stack.pop()
                continue
            inputs = [node_of(i) for i in nodes[name].input]
            unknown = [i for i in inputs if i not in known]
            if unknown:
                stack += unknown
                continue
            known[name] = nodes[name].op != "Placeholder" and all(known[i] for i in inputs)
            stack.pop()
    return {name for name, constant in known.items() if constant}


def _evaluate(graph: Any, names: set[str]) -> dict[str, Any]:
    wanted = sorted(names)
    with tf.Graph().as_default() as loaded:
        tf.graph_util.import_graph_def(graph, name="")
        with tf.compat.v1.Session(graph=loaded) as session:
            tensors = [loaded.as_graph_element(n if ":" in n else f"{n}:0") for n in wanted]
            return dict(zip(wanted, session.run(tensors), strict=True))


def _per_channel(value: Any, channels: int) -> Any:
    """float64[channels] of a constant that broadcasts over the last axis only."""
    array = np.asarray(value, np.float64)
    if array.size not in (1, channels) or (array.ndim and array.shape[-1] != array.size):
        raise ValueError(f"Expected one value for each of {channels} channels. Received: shape {array.shape}")
    return np.broadcast_to(array.reshape(-1), (channels,))


def _constant(name: str, value: Any) -> Any:
    node = tf.compat.v1.NodeDef(name=name, op="Const")
    node.attr["dtype"].type = tf.as_dtype(value.dtype).as_datatype_enum
    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value))
    return node
