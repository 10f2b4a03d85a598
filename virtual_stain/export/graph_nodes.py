"""How the nodes of a GraphDef refer to each other."""

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
