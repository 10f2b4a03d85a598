"""The network of a loaded bundle in bfloat16: convolutions and what lies between them, by rewriting its graph.

Weights are rounded once, after batch normalization was merged in float32; the input's scaling, the mean over the maps
and everything after it stay float32. bfloat16 keeps float32's range, so nothing can overflow.

So do the first two convolutions of a deep network: bfloat16 has no room for 256 grey levels, and what is rounded there
shifts all that follows the same way. In InceptionV3 they are 3 % of the time and seven eighths of the error
(docs/performance.md).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import tensorflow as tf

_FOLLOWS = {"BiasAdd", "Relu", "MaxPool", "AvgPool", "ConcatV2", "Identity"}
_STEM, _DEEP = 2, 8  # convolutions on the way from the input that stay float32, and from what depth on
_FLOAT = tf.float32.as_datatype_enum
_BFLOAT = tf.bfloat16.as_datatype_enum
_CPU_INFO = Path("/proc/cpuinfo")
_AMPERE = 8  # first NVIDIA generation with bfloat16 units


def multiplies_bfloat16(cpu_info: Path = _CPU_INFO) -> bool:
    """Whether the device multiplies bfloat16 in hardware: AMX or AVX-512 BF16, or a GPU from Ampere on.

    Without them bfloat16 is emulated, and slower than float32.
    """
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        details = tf.config.experimental.get_device_details(gpus[0])
        return bool(details.get("compute_capability", (0, 0))[0] >= _AMPERE)
    try:
        text = cpu_info.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False  # not Linux: nothing is known about the processor
    flags = next((line.split() for line in text.splitlines() if line.startswith("flags")), [])
    return "amx_bf16" in flags or "avx512_bf16" in flags


def find_network(graph: Any) -> Any | None:
    """The FunctionDef that holds the network's convolutions in a GraphDef's library; None where there is none."""
    counted = [(sum(n.op == "Conv2D" for n in f.node_def), f) for f in graph.library.function]
    most, function = max(counted, key=lambda pair: pair[0], default=(0, None))
    return function if most else None


def rename_functions(graph: Any, suffix: str) -> None:
    """Gives every function of a GraphDef's library another name, in place: one process keeps one body for each name."""
    names = {f.signature.name: f.signature.name + suffix for f in graph.library.function}
    for function in graph.library.function:
        function.signature.name = names[function.signature.name]
    del graph.library.gradient[:]
    for node in [*graph.node, *(n for f in graph.library.function for n in f.node_def)]:
        node.op = names.get(node.op, node.op)
        for value in node.attr.values():
            if value.HasField("func"):
                value.func.name = names.get(value.func.name, value.func.name)
            for function in value.list.func if value.HasField("list") else ():
                function.name = names.get(function.name, function.name)


def to_bfloat16(function: Any) -> Any:
    """A copy of the FunctionDef whose convolutions, and what only moves or compares their results, are bfloat16."""
    result = type(function)()
    result.CopyFrom(function)
    nodes = {n.name: n for n in result.node_def}
    region = _region(nodes)
    added: dict[str, Any] = {}
    for node in list(result.node_def):
        if node.name in region:
            node.attr["T"].type = _BFLOAT
        for position, name in enumerate(node.input):
            if name.startswith("^"):
                continue
            source = name.split(":")[0]
            inside, from_inside = node.name in region, source in region
            if inside and not from_inside:
                node.input[position] = _into(nodes.get(source), name, added)
            elif from_inside and not inside:
                node.input[position] = _cast(name, source, _BFLOAT, _FLOAT, added)
    for key, name in result.ret.items():
        if name.split(":")[0] in region:
            result.ret[key] = _cast(name, name.split(":")[0], _BFLOAT, _FLOAT, added)
    result.node_def.extend(added.values())
    used = {i.lstrip("^").split(":")[0] for n in result.node_def for i in n.input}
    used |= {name.split(":")[0] for name in result.ret.values()}
    kept = [n for n in result.node_def if n.name in used]
    del result.node_def[:]
    result.node_def.extend(kept)
    return result


def _region(nodes: dict[str, Any]) -> set[str]:
    """Names of the float convolutions behind the stem, and of what only moves or compares their results."""
    depth = _depths(nodes)
    deep = max(depth.values(), default=0) >= _DEEP
    stem = {name for name, before in depth.items() if deep and before < _STEM and nodes[name].op == "Conv2D"}
    region: set[str] = set()
    growing = True
    while growing:
        growing = False
        for node in nodes.values():
            if node.name in region or not _is_float(node):
                continue
            sources = {i.split(":")[0] for i in node.input}
            is_convolution = node.op == "Conv2D" and node.name not in stem
            if is_convolution or (node.op in _FOLLOWS and sources & region):
                region.add(node.name)
                growing = True
    return region


def _is_float(node: Any) -> bool:
    """A SavedModel leaves out what is the default, and of `MaxPool` alone that is float32."""
    if "T" not in node.attr:
        return bool(node.op == "MaxPool")
    return bool(node.attr["T"].type == _FLOAT)


def _depths(nodes: dict[str, Any]) -> dict[str, int]:
    """For every node the number of convolutions before it, on the longest way from the input."""
    depth: dict[str, int] = {}
    for root in nodes:
        stack = [root]
        while stack:
            name = stack[-1]
            sources = [s for s in (i.lstrip("^").split(":")[0] for i in nodes[name].input) if s in nodes]
            unknown = [s for s in sources if s not in depth]
            if name in depth or not unknown:
                stack.pop()
                if name not in depth:
                    depth[name] = max((depth[s] + (nodes[s].op == "Conv2D") for s in sources), default=0)
            else:
                stack += unknown
    return depth


def _into(source: Any | None, name: str, added: dict[str, Any]) -> str:
    """The bfloat16 version of an input from outside: a constant is rounded now, anything else is cast."""
    if source is not None and source.op == "Const":
        if source.attr["dtype"].type != _FLOAT:
            return name  # an axis
        new = f"{source.name}/bfloat16"
        if new not in added:
            value = tf.make_ndarray(source.attr["value"].tensor).astype(ml_dtypes.bfloat16)
            node = tf.compat.v1.NodeDef(name=new, op="Const")
            node.attr["dtype"].type = _BFLOAT
            node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value))
            added[new] = node
        return f"{new}:output:0"
    return _cast(name, name.split(":")[0], _FLOAT, _BFLOAT, added)


def _cast(name: str, source: str, before: int, after: int, added: dict[str, Any]) -> str:
    new = f"{source}/as_{'bfloat16' if after == _BFLOAT else 'float32'}"
    if new not in added:
        node = tf.compat.v1.NodeDef(name=new, op="Cast")
        node.attr["SrcT"].type, node.attr["DstT"].type = before, after
        node.attr["Truncate"].b = False
        node.input.append(name)
        added[new] = node
    return f"{new}:y:0"
