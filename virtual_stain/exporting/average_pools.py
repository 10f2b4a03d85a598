"""Average pooling moved behind the 1 × 1 convolution that follows it: the same sums, of fewer channels.

InceptionV3 averages 192 to 2,048 channels and then mixes them to 32 to 192. Averaging over neighbours and mixing
channels are both linear and do not touch each other's axes, so either may come first; the bias is added after both. At
the border an average counts what lies inside only, for every channel alike, so that holds there, too. Readings change
by rounding (docs/performance.md).
"""

from __future__ import annotations

from typing import Any


def node_of(name: str) -> str:
    """The node that an input ("node", "node:1", "^node") or a tensor's name refers to."""
    return name.lstrip("^").split(":")[0]


def users_of(graph: Any) -> dict[str, list[Any]]:
    """Name of a node → the nodes that have it as an input, once for each time."""
    users: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(node_of(name), []).append(node)
    return users


def average_after_mixing(graph: Any, outputs: list[str]) -> Any:
    """A GraphDef in which no AvgPool of stride 1 has a narrowing 1 × 1 Conv2D of constants as its only user.

    `outputs`: tensor names; what they name stays where it is.
    """
    asked = {node_of(name) for name in outputs}
    result = type(graph)()
    result.CopyFrom(graph)
    nodes = {n.name: n for n in result.node}
    users = users_of(result)
    for pool in [n for n in result.node if n.op == "AvgPool"]:
        readers = users.get(pool.name, [])
        if len(readers) != 1 or not _keeps_places(pool) or not _mixes_to_fewer(readers[0], nodes):
            continue
        conv = readers[0]
        if {pool.name, conv.name} & asked:
            continue
        for user in users.get(conv.name, []):
            user.input[:] = [pool.name if name.split(":")[0] == conv.name else name for name in user.input]
        conv.input[0], pool.input[0] = pool.input[0], conv.name
    return result


def _keeps_places(pool: Any) -> bool:
    """An average for every pixel of the input, edges included."""
    return (
        list(pool.attr["strides"].list.i) == [1, 1, 1, 1]
        and pool.attr["padding"].s == b"SAME"
        and pool.attr["data_format"].s in (b"", b"NHWC")
    )


def _mixes_to_fewer(conv: Any, nodes: dict[str, Any]) -> bool:
    kernel = nodes.get(node_of(conv.input[1])) if conv.op == "Conv2D" else None
    if kernel is None or kernel.op != "Const":
        return False
    height, width, before, after = (d.size for d in kernel.attr["value"].tensor.tensor_shape.dim)
    return (
        (height, width) == (1, 1)
        and after < before
        and list(conv.attr["strides"].list.i) == [1, 1, 1, 1]
        and conv.attr["padding"].s != b"EXPLICIT"  # a border of zeros that the average would take in
        and conv.attr["data_format"].s in (b"", b"NHWC")
    )
