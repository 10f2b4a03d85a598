"""The address of a model on a server, as it is typed after `--model`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from virtual_stain.errors import ConfigError

GRPC_PORT, REST_PORT = 8500, 8501
_SCHEMES = ("grpc", "grpcs", "http", "https")
_EXAMPLES = "grpc://host:8500/ki67 or http://host:8501/v1/models/ki67, and where wanted /versions/3 or /labels/canary"


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """One model of one TF Serving."""

    scheme: str
    """grpc, grpcs (TLS), http or https."""
    host: str
    port: int
    model: str
    version: int | None = None
    label: str | None = None
    """A version label ("stable", "canary"), which the server's models.config gives to a version."""

    @property
    def grpc(self) -> bool:
        return self.scheme.startswith("grpc")

    @property
    def target(self) -> str:
        """host:port; an IPv6 host in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        path = self.model if self.grpc else f"v1/models/{self.model}"
        if self.version is not None:
            path += f"/versions/{self.version}"
        if self.label is not None:
            path += f"/labels/{self.label}"
        return f"{self.scheme}://{self.target}/{path}"


def is_server(model: str) -> bool:
    """Whether `--model` names a server and not a folder."""
    return model.partition("://")[0] in _SCHEMES and "://" in model


def parse_address(text: str) -> ServerAddress:
    """The parts of an address. Raises ConfigError."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"--model {text}: {error}.", hint=f"Expected {_EXAMPLES}.") from None
    path = parts.path.strip("/")
    if not parts.scheme.startswith("grpc"):
        path = path.removeprefix("v1/models/")
    found = re.fullmatch(r"([A-Za-z0-9_.-]+)(?:/versions/(\d+)|/labels/([^/]+))?", path.removesuffix(":predict"))
    if not parts.hostname or found is None or parts.query or parts.fragment:
        raise ConfigError(f"--model {text}: expected the address of a model on a server.", hint=f"Like {_EXAMPLES}.")
    if parts.username or parts.password:
        raise ConfigError("--model: a password in an address would end up in reports; TF Serving asks for none.")
    default = GRPC_PORT if parts.scheme.startswith("grpc") else REST_PORT
    name, version, label = found.groups()
    return ServerAddress(
        parts.scheme, parts.hostname, port or default, name, None if version is None else int(version), label
    )
