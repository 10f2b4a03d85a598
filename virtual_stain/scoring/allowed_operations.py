"""What the graph of a bundle may do: compute, and hold its weights. Nothing that reads or writes files, opens
connections or runs code of this machine: a model from elsewhere is a program from elsewhere.

Operations of TensorFlow that keep no state are allowed but for the few that reach outside all the same; of those that
keep a state, the listed ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tensorflow.python.framework import op_def_registry

from virtual_stain.errors import VerificationError

_REACH_OUTSIDE = frozenset(
    ("ReadFile", "MatchingFiles", "GenerateVocabRemapping", "LoadAndRemapMatrix", "PyFuncStateless", "Copy", "CopyHost")
)
"""Stateless by their definition."""
_VARIABLES = {
    "VarHandleOp",
    "ReadVariableOp",
    "AssignVariableOp",
    "VarIsInitializedOp",
    "ResourceGather",
    "DisableCopyOnRead",
}
_CONTROL = {
    "DisableCopyOnRead",
    "PartitionedCall",
    "StatefulPartitionedCall",
    "If",
    "While",
    "Case",
    "Assert",
    "Placeholder",
}
_STATEFUL = frozenset(_VARIABLES | _CONTROL)
_SAVER = frozenset(("SaveV2", "RestoreV2", "MergeV2Checkpoints", "ShardedFilename"))
"""By which TensorFlow itself writes and reads the weights: in the file, and out of reach of every signature."""


def require_allowed(meta: Any, where: str) -> None:
    """Raises VerificationError for a MetaGraphDef that could do more than compute."""
    functions = {f.signature.name: f.node_def for f in meta.graph_def.library.function}
    bad = {node.op for node in meta.graph_def.node if not _is_allowed(node.op)}
    bad |= {node.op for nodes in functions.values() for node in nodes if not _is_allowed(node.op)}
    bad |= {node.op for node in _reached(meta, functions) if node.op in _SAVER}
    if bad:
        raise VerificationError(
            f"{where}: expected a graph that computes alone. Received one that could read, write or run: "
            f"{', '.join(sorted(bad)[:8])}.",
            hint="Nothing of it was run. Models come from vstain export; ask its maker where this one is from.",
        )


def _is_allowed(op: str) -> bool:
    if op in _STATEFUL or op in _SAVER:
        return True
    known = op_def_registry.get(op)
    return known is not None and not known.is_stateful and op not in _REACH_OUTSIDE


def _reached(meta: Any, functions: Mapping[str, Any]) -> Iterator[Any]:
    """The nodes that a signature runs: what its outputs come from, and the functions called there."""
    outer = {node.name: node for node in meta.graph_def.node}
    waiting = [o.name for s in meta.signature_def.values() for o in s.outputs.values() if s.method_name]
    seen: set[str] = set()
    called: list[str] = []
    while waiting:
        name = waiting.pop().lstrip("^").partition(":")[0]
        if name in seen or name not in outer:
            continue
        seen.add(name)
        yield outer[name]
        waiting += outer[name].input
        called += _functions_of(outer[name])
    while called:
        function = called.pop()
        if function in seen:
            continue
        seen.add(function)
        for node in functions.get(function, ()):
            yield node
            called += _functions_of(node)


def _functions_of(node: Any) -> Iterator[str]:
    for value in node.attr.values():
        if value.HasField("func"):
            yield value.func.name
        yield from (function.name for function in value.list.func)
