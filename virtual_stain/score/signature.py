"""One signature of a SavedModel and nothing else of it: how a server loads a frozen graph, in a fraction of the memory.

`tf.saved_model.load` makes every function of the file anew, each with its own copy of all functions below it, and the
network's weights lie in these. Here the signature's own part of the graph is taken from the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

_VARIABLES = {"VarHandleOp", "VariableV2", "ReadVariableOp"}


def read_saved_model(folder: Path) -> Any:
    """The MetaGraphDef of a bundle's folder. Raises OSError, ValueError."""
    message = SavedModel()
    try:
        message.ParseFromString((folder / "saved_model.pb").read_bytes())
    except Exception as error:  # protobuf has its own class for each of its implementations
        raise ValueError(f"saved_model.pb is not a SavedModel: {error}") from None
    if len(message.meta_graphs) != 1:
        raise ValueError(f"expected one graph. Received: {len(message.meta_graphs)}")
    return message.meta_graphs[0]


def signature_graph(meta: Any, name: str) -> Any | None:
    """A GraphDef with what the signature needs; None where that includes variables. Raises KeyError."""
    if name not in meta.signature_def:
        raise KeyError(name)
    outputs = [v.name for v in meta.signature_def[name].outputs.values()]
    nodes = {n.name: n for n in meta.graph_def.node}
    functions = {f.signature.name: f for f in meta.graph_def.library.function}
    result = tf.compat.v1.GraphDef(versions=meta.graph_def.versions)
    wanted: set[str] = set()
    stack = [o.split(":")[0] for o in outputs]
    while stack:
        node = stack.pop()
        if node not in wanted:
            wanted.add(node)
            stack += [i.lstrip("^").split(":")[0] for i in nodes[node].input]
    result.node.extend(n for n in meta.graph_def.node if n.name in wanted)
    called = [c for n in result.node for c in _called(n, functions)]
    taken: set[str] = set()
    while called:
        function = called.pop()
        if function not in taken:
            taken.add(function)
            called += [c for n in functions[function].node_def for c in _called(n, functions)]
    result.library.function.extend(functions[f] for f in sorted(taken))
    bodies = [*result.node, *(n for f in result.library.function for n in f.node_def)]
    return None if any(n.op in _VARIABLES for n in bodies) else result


def _called(node: Any, functions: Mapping[str, Any]) -> list[str]:
    """Names of the functions that a node calls."""
    names = [node.op] + [v.func.name for v in node.attr.values() if v.HasField("func")]
    names += [f.name for v in node.attr.values() if v.HasField("list") for f in v.list.func]
    return [n for n in names if n in functions]


def callable_signature(meta: Any, name: str, graph: Any) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
    """The signature as a function of its one input, over `graph` (of `signature_graph`, or rewritten)."""
    signature = meta.signature_def[name]
    (source,) = (v.name for v in signature.inputs.values())
    names = sorted(signature.outputs)
    wrapped = tf.compat.v1.wrap_function(lambda: tf.graph_util.import_graph_def(graph, name=""), [])
    element = wrapped.graph.as_graph_element
    pruned = wrapped.prune(element(source), [element(signature.outputs[n].name) for n in names])
    return lambda tensor: dict(zip(names, pruned(tensor), strict=True))
