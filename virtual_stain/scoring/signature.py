"""One signature of a SavedModel and nothing else of it: how a server loads a frozen graph, in a fraction of the memory.

`tf.saved_model.load` makes every function of the file anew, each with its own copy of all functions below it, and the
network's weights lie in these. Here the signature's own part of the graph is taken from the file.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf.config_pb2 import ConfigProto
from tensorflow.core.protobuf.rewriter_config_pb2 import RewriterConfig
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
from tensorflow.python.eager import context as eager_context
from tensorflow.python.eager import execute

from virtual_stain.scoring.bfloat16 import rename_functions

Signature = Callable[[tf.Tensor], dict[str, tf.Tensor]]

_VARIABLES = {"VarHandleOp", "VariableV2", "ReadVariableOp"}
_CALLS = {"PartitionedCall", "StatefulPartitionedCall"}
_PASSES = (
    "constant_folding",
    "arithmetic_optimization",
    "dependency_optimization",
    "loop_optimization",
    "shape_optimization",
    "layout_optimizer",
    "common_subgraph_elimination",
    "implementation_selector",
    "scoped_allocator_optimization",
    "pin_to_host_optimization",
    "debug_stripper",
    "auto_mixed_precision",
    "auto_mixed_precision_mkl",
)
_loads = itertools.count()


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


def signature_graph(meta: Any, *names: str) -> Any | None:
    """A GraphDef with what these signatures need; None where that includes variables. Raises KeyError."""
    outputs = [v.name for name in names for v in meta.signature_def[_known(meta, name)].outputs.values()]
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


def _known(meta: Any, name: str) -> str:
    if name not in meta.signature_def:
        raise KeyError(name)
    return name


def _called(node: Any, functions: Mapping[str, Any]) -> list[str]:
    """Names of the functions that a node calls."""
    names = [node.op] + [v.func.name for v in node.attr.values() if v.HasField("func")]
    names += [f.name for v in node.attr.values() if v.HasField("list") for f in v.list.func]
    return [n for n in names if n in functions]


def callable_signatures(meta: Any, graph: Any, *names: str) -> dict[str, Signature]:
    """Each signature as a function of its one input, over `graph` (of `signature_graph`; renamed in place).

    The file's own functions are registered and called by name. Importing them into a new graph, as
    `tf.saved_model.load` does, copies the weights several times before the first answer. Raises ValueError.
    """
    # one process keeps one body for each name, and other bundles have functions of the same names
    rename_functions(graph, f"_vstain_{next(_loads)}")
    context = eager_context.context()
    context.ensure_initialized()
    functions = _Functions(context, graph)
    return {name: _Call(context, functions, *_only_call(meta.signature_def[name], graph)) for name in names}


class _Functions:
    """The functions of a graph, known to TensorFlow as long as somebody can call them."""

    def __init__(self, context: Any, graph: Any) -> None:
        for function in graph.library.function:
            context.add_function_def(function)
        weakref.finalize(self, _forget, context, [f.signature.name for f in graph.library.function]).atexit = False


def _forget(context: Any, names: list[str]) -> None:
    for name in names:
        context.remove_function(name)


class _Call:
    """Runs one function by its name."""

    def __init__(self, context: Any, functions: _Functions, name: str, takes: bool, positions: dict[str, int]) -> None:
        self._context, self._functions, self._name, self._takes = context, functions, name, takes
        self._positions = positions
        self._count = len(context.get_function_def(name).signature.output_arg)
        self._attributes = ("executor_type", "", "config_proto", _rewriting(context))

    def __call__(self, tensor: tf.Tensor) -> dict[str, tf.Tensor]:
        given = [tensor] if self._takes else []
        found = execute.execute(self._name, self._count, given, self._attributes, self._context)
        return {name: found[i] for name, i in self._positions.items()}


def _only_call(signature: Any, graph: Any) -> tuple[str, bool, dict[str, int]]:
    """(function, whether it takes the signature's input, output → its position): a saved signature is one call."""
    (source,) = (v.name.split(":")[0] for v in signature.inputs.values())
    outputs = {name: signature.outputs[name].name.rpartition(":") for name in sorted(signature.outputs)}
    callers = {node for node, _, _ in outputs.values()}
    found = [n for n in graph.node if n.name in callers]
    inputs = [i for n in found for i in n.input if not i.startswith("^")]
    if len(found) != 1 or found[0].op not in _CALLS or inputs not in ([], [source]):
        raise ValueError(f"expected a signature that is one call of a function. Received: {[n.op for n in found]}")
    return found[0].attr["f"].func.name, bool(inputs), {name: int(i) for name, (_, _, i) in outputs.items()}


def _rewriting(context: Any) -> bytes:
    """What TensorFlow may rewrite before the first call: on a CPU only the fusing of convolution, bias and activation.

    The graph was folded when it was exported; the other passes find nothing in it and take a second.
    """
    if context.list_physical_devices("GPU"):
        default: bytes = context.function_call_options.config_proto_serialized
        return default
    config = ConfigProto()
    rewriter = config.graph_options.rewrite_options
    rewriter.min_graph_nodes = -1  # also where there are few nodes
    rewriter.meta_optimizer_iterations = RewriterConfig.ONE
    rewriter.memory_optimization = RewriterConfig.NO_MEM_OPT
    for name in _PASSES:
        setattr(rewriter, name, RewriterConfig.OFF)
    rewriter.remapping = RewriterConfig.ON
    result: bytes = config.SerializeToString()
    return result
