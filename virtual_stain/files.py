"""Files that are whole or not there: atomic writes, hashes, and a lock against a second run in the same folder."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from virtual_stain.errors import InputError, OutputError
from virtual_stain.remote import Location

_UNWRITABLE = {
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EROFS: "the file system is read-only",
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.ENOENT: "there is no such folder, and none can be made",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EEXIST: "a file of that name is in the way",
    errno.EISDIR: "a folder of that name is in the way",
    errno.ENAMETOOLONG: "the name is too long",
}


_FULL = (errno.ENOSPC, errno.EDQUOT)
_HINT = "Choose another folder with --out, or free the space or the permission."


@contextlib.contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Turns the operating system's refusals to write below `path` into OutputError with the path.

    What is refused elsewhere (a slide, a program, the temporary folder) is not blamed on the output.
    """
    try:
        yield
    except OSError as error:
        reason = _UNWRITABLE.get(error.errno or 0)
        if reason is None or (error.errno not in _FULL and not _is_about(error, path)):
            raise
        raise OutputError(f"{error.filename or path}: cannot be written: {reason}.", hint=_HINT) from error


def _is_about(error: OSError, path: Path) -> bool:
    if not isinstance(error.filename, str | os.PathLike):
        return True
    named, folder = Path(error.filename).absolute(), path.absolute()
    return folder in (named, *named.parents) or named in folder.parents or named.parent == folder.parent


def full_disk(error: BaseException | None) -> OutputError | None:
    """The error of a disk that takes nothing more, where an exception of any library comes of one; else None.

    Libraries tell it each in their own way, and mask it with what they could not do afterwards.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OutputError):
            return error
        number = error.errno if isinstance(error, OSError) else None
        reason = next((n for n in _FULL if n == number or os.strerror(n) in str(error)), None)
        if reason is not None:
            name = getattr(error, "filename", None)
            where = f"{name}: cannot be written" if name else "An output cannot be written"
            return OutputError(f"{where}: {_UNWRITABLE[reason]}.", hint=_HINT)
        error = error.__cause__ or error.__context__
    return None


def is_full(error: BaseException | None) -> bool:
    """Whether an error comes of a disk that takes nothing more: then it is no single slide's, and the run ends."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        error = error.__cause__ or error.__context__
    return False


def make_folder(path: Path) -> Path:
    """Creates `path` and its parents. Raises OutputError."""
    with output_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields `path` + ".tmp" to write to; on success it is synced and takes the place of `path` in one step.

    On any exception the temporary file is removed and `path` stays as it was.
    """
    temporary = path.with_name(path.name + ".tmp")
    with output_errors(path):
        try:
            if temporary.is_symlink():  # somebody's way to have another file written in its place
                temporary.unlink()
            yield temporary
            with temporary.open("rb+") as stream:
                os.fsync(stream.fileno())
            temporary.replace(path)
            _sync_folder(path.parent)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


def _sync_folder(folder: Path) -> None:
    # the rename itself must survive a power cut; some network file systems refuse this, and then cannot promise it
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a whole file atomically. Raises OutputError."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Writes a whole UTF-8 file atomically. Raises OutputError."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Writes JSON atomically, indented, keys in the order given; NaN is a bug and raises ValueError."""
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """What `write_json` writes."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def read_json(path: Location, what: str) -> Any:
    """Reads JSON. Raises InputError that says what the file was expected to be."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {what} cannot be read: {error.strerror}") from None
    return parse_json(data, f"{path}: expected {what}")


def read_object(path: Location, what: str) -> dict[str, Any]:
    """Reads a JSON object. Raises InputError."""
    value = read_json(path, what)
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected {what} (a JSON object). Received: {value!r:.80}")
    return value


def parse_json(data: bytes | str, expected: str) -> Any:
    """JSON (UTF-8) that means one thing to every reader. `expected` begins the message of the InputError it raises.

    Refused: a key that stands twice, NaN and Infinity, numbers that overflow, integers beyond 64 bits, lone surrogates,
    nesting beyond what can be read.
    """
    try:
        text = data if isinstance(data, str) else data.decode("utf-8")
        value = json.loads(
            text, object_pairs_hook=_unique, parse_int=_integer, parse_float=_finite, parse_constant=_refuse_constant
        )
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        return value
    except (ValueError, RecursionError) as error:  # JSONDecodeError and UnicodeError are ValueErrors
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InputError(f"{expected} (JSON). Received something else: {reason:.200}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(n for n in names if names.count(n) > 1)!r:.80} stands twice")
    return value


def _integer(text: str) -> int:
    if len(text) > 20 or not -(2**63) <= int(text) < 2**64:
        raise ValueError(f"the integer {text:.20}… has more than 64 bits")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text:.20} is too large")
    return value


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is no JSON number")


def sha256_file(path: Location) -> str:
    """Hex digest of a file's bytes. Raises InputError when it cannot be read."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None


_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextlib.contextmanager
def file_lock(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Holds the lock file `path`; the system frees it when this process ends, however it ends.

    Raises OutputError: another process holds it (at once, without `wait`), or the share keeps no locks.
    """
    import filelock  # a fifth of a second, for those alone who lock

    # a marker file in place of the system's lock would outlive a process that was killed
    lock = filelock.FileLock(path, blocking=wait, fallback_to_soft=False)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise OutputError(
            f"{path.parent}: another vstain run is writing here.",
            hint="Wait for it, or give this run another --out.",
        ) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        raise OutputError(
            f"{path.parent}: expected a share that keeps file locks. Received: {error.strerror}. "
            "Without them a second run could write here at the same time.",
            hint="Take a folder on a local disk with --out, or mount the share with locks.",
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def folder_lock(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Holds `folder`/.lock for this process; a second run gets OutputError at once, or waits for the first to end."""
    make_folder(folder)
    with output_errors(folder), file_lock(folder / ".lock", wait=wait):
        yield
