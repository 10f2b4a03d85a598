"""Folders and files in object storage, read through TensorFlow's file systems: s3://, gs://, az://, http(s)://.

tensorflow-io brings the file systems; `tf.data` reads shards from them directly. `RemotePath` is the part of
`pathlib.Path` that reading needs, with `OSError`s in place of TensorFlow's, so that what reads a local folder reads a
remote one. Nothing is written there. Credentials and endpoints come from the environment (docs/records.md).
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from virtual_stain.errors import ConfigError, InputError

SCHEMES = ("s3", "gs", "az", "http", "https")
_CONNECT_S = 5.0


@dataclass(frozen=True, slots=True)
class _Stat:
    st_size: int


@dataclass(frozen=True, slots=True)
class RemotePath:
    """`scheme://bucket/key`, always without a slash at its end."""

    url: str

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> RemotePath:
        return RemotePath(f"{self.url}/{name}")

    @property
    def scheme(self) -> str:
        return self.url.partition("://")[0]

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]

    @property
    def can_list(self) -> bool:
        """Plain web servers have no listings."""
        return self.scheme not in ("http", "https")

    def resolve(self) -> RemotePath:
        """It is absolute already."""
        return self

    def is_file(self) -> bool:
        """Raises InputError when the server cannot be asked: that is no answer."""
        try:
            self.stat()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise InputError(f"{self}: cannot be read: {error.strerror}.", hint=_HINT) from None
        return True

    def stat(self) -> _Stat:
        """Size in bytes. Raises OSError."""
        with _os_errors(self):
            found = _gfile(self).stat(self.url)
        if found.is_directory:
            raise FileNotFoundError(errno.ENOENT, "not a file", self.url)
        return _Stat(int(found.length))

    def open(self, mode: Literal["rb"] = "rb") -> io.BufferedReader:
        """A buffered stream of the file's bytes. Raises OSError."""
        self.stat()
        return io.BufferedReader(_Stream(self), buffer_size=1 << 20)

    def read_bytes(self) -> bytes:
        """Raises OSError."""
        with self.open() as stream:
            return stream.read()

    def read_text(self, encoding: str = "utf-8") -> str:
        """Raises OSError, UnicodeDecodeError."""
        return self.read_bytes().decode(encoding)

    def glob(self, pattern: str) -> Iterator[RemotePath]:
        """Files right below whose name fits; nothing where the server has no listings. Raises OSError."""
        if not self.can_list:
            return
        with _os_errors(self):
            found = _gfile(self).glob(f"{self.url}/{pattern}")
        yield from (RemotePath(str(url)) for url in sorted(found))

    def folders(self) -> list[str]:
        """Names right below, files among them: object storage tells them apart only when asked. Raises OSError."""
        with _os_errors(self):
            return sorted(str(name).rstrip("/") for name in _gfile(self).listdir(self.url))


Location = Path | RemotePath
"""Where something is read from."""


def is_remote(text: str) -> bool:
    """Whether it is written as a URL."""
    return "://" in text


def parse_location(text: str) -> Location:
    """A folder's name or URL → Path or RemotePath. Raises ConfigError for a scheme that cannot be read."""
    if not is_remote(text):
        return Path(text)
    scheme, _, rest = text.partition("://")
    if scheme not in SCHEMES or not rest.strip("/"):
        known = ", ".join(f"{s}://" for s in SCHEMES)
        raise ConfigError(f"{text}: expected a folder, or a URL beginning with {known} and a bucket or host.")
    return RemotePath(f"{scheme}://{rest.rstrip('/')}")


_HINT = (
    "Look at the address and the environment: S3_ENDPOINT, S3_USE_HTTPS, AWS_REGION, AWS_ACCESS_KEY_ID, "
    "AWS_SECRET_ACCESS_KEY (s3), TF_AZURE_STORAGE_KEY (az), GOOGLE_APPLICATION_CREDENTIALS (gs)."
)


class _Stream(io.RawIOBase):
    def __init__(self, path: RemotePath) -> None:
        super().__init__()
        self._path = path
        self._file = _gfile(path).GFile(path.url, "rb")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with _os_errors(self._path):
            data: bytes = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def _gfile(path: RemotePath) -> Any:
    """TensorFlow's file access with every file system loaded, after a look whether the server is there at all."""
    _require_server(path)
    import tensorflow as tf

    try:
        import tensorflow_io  # noqa: F401  # registers the file systems
    except ImportError:
        raise ConfigError(
            f"{path}: object storage needs tensorflow-io, which is not installed.",
            hint="pip install tensorflow-io==0.37.1 (Linux and macOS), or copy the files to a local folder.",
        ) from None

    return tf.io.gfile


_reached: set[tuple[str, int]] = set()


def _require_server(path: RemotePath) -> None:
    """A server that does not answer looks like a missing file to TensorFlow, and after 51 s: so it is asked first."""
    address = server_of(path, os.environ)
    if address is None or address in _reached:
        return
    try:
        socket.create_connection(address, timeout=_CONNECT_S).close()
    except OSError as error:
        raise InputError(
            f"{path}: the server {address[0]}:{address[1]} cannot be reached: {error.strerror or error}.", hint=_HINT
        ) from None
    _reached.add(address)


def server_of(path: RemotePath, environment: Mapping[str, str]) -> tuple[str, int] | None:
    """Host and port that will be asked; None where the file system itself decides (gs, az, behind a proxy)."""
    if any(environment.get(name) for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")):
        return None
    if path.scheme in ("http", "https"):
        url = path.url
    elif path.scheme == "s3":
        region = environment.get("AWS_REGION") or "us-east-1"
        url = environment.get("S3_ENDPOINT") or f"s3.{region}.amazonaws.com"
        if not is_remote(url):
            url = f"{'http' if environment.get('S3_USE_HTTPS') == '0' else 'https'}://{url}"
    else:
        return None
    try:
        parts = urlsplit(url)
        return (parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)) if parts.hostname else None
    except ValueError:
        raise ConfigError(f"{url}: expected a server's address. Received something else.") from None


@contextlib.contextmanager
def _os_errors(path: RemotePath) -> Iterator[None]:
    """TensorFlow's errors as OSError, which says the same in the language of every other file."""
    import tensorflow as tf

    try:
        yield
    except tf.errors.NotFoundError:
        raise FileNotFoundError(errno.ENOENT, "no such file or bucket", path.url) from None
    except (tf.errors.PermissionDeniedError, tf.errors.UnauthenticatedError) as error:
        raise PermissionError(errno.EACCES, f"access denied {error.message}".rstrip(), path.url) from None
    except tf.errors.OpError as error:
        raise OSError(errno.EIO, error.message or type(error).__name__, path.url) from None
